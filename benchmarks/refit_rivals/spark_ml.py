"""Spark ML's PCA on the same rows, read by Spark from the same files; prints one JSON line.

python -m benchmarks.refit_rivals.spark_ml --home DIR --out FILE.npy
"""

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from pyspark.ml.feature import PCA
from pyspark.ml.functions import array_to_vector
from pyspark.sql import SparkSession
from pyspark.sql import functions as sql

from benchmarks.refit_rivals.ours import COMPONENTS
from benchmarks.rivals.job import answering
from bootstrap.programs import use_java


def main() -> None:
    """Fit on all rows, with the session there before the clock starts, and keep the components (k, 1280) in a file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", required=True)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    use_java()
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    with answering() as answer:
        session = (
            SparkSession.builder.master("local[*]")
            .appName("spark-ml")
            .config("spark.driver.host", "127.0.0.1")
            .config("spark.driver.memory", "8g")
            .config("spark.driver.maxResultSize", "0")
            .config("spark.ui.enabled", "false")
            .config("spark.ui.showConsoleProgress", "false")
            .getOrCreate()
        )
        started_s = time.perf_counter()
        features = session.read.parquet(f"{options.home}/features").select(
            array_to_vector(sql.col("features")).alias("features")
        )
        model = PCA(k=COMPONENTS, inputCol="features").fit(features)
        seconds = time.perf_counter() - started_s
        np.save(options.out, model.pc.toArray().T)
        java: Any = session._jvm
        blas = java.dev.ludovic.netlib.blas.BLAS.getInstance().getClass().getSimpleName()
        answer({"rows": features.count(), "seconds": seconds, "blas": blas})
        session.stop()


if __name__ == "__main__":
    main()
