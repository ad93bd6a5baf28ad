"""Spark ML's PCA on the same rows, read by Spark from the same files; prints one JSON line.

python -m benchmarks.refit_rivals.spark_ml --home DIR --out FILE.npy
"""

import time
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from pyspark.ml.feature import PCA
from pyspark.ml.functions import array_to_vector
from pyspark.sql import functions as sql

from benchmarks.refit_rivals.ours import COMPONENTS
from benchmarks.rivals.job import answering
from benchmarks.rivals.spark import local_spark


def main(home: Annotated[str, typer.Option()], out: Annotated[Path, typer.Option()]) -> None:
    """Fit on all rows, with the session there before the clock starts, and keep the components (k, 1280) in a file."""
    memory = {"spark.driver.memory": "8g", "spark.driver.maxResultSize": "0"}
    with answering() as answer, local_spark("spark-ml", memory) as session:
        started_s = time.perf_counter()
        features = session.read.parquet(f"{home}/features").select(
            array_to_vector(sql.col("features")).alias("features")
        )
        model = PCA(k=COMPONENTS, inputCol="features").fit(features)
        seconds = time.perf_counter() - started_s
        np.save(out, model.pc.toArray().T)
        java: Any = session._jvm
        blas = java.dev.ludovic.netlib.blas.BLAS.getInstance().getClass().getSimpleName()
        answer({"rows": features.count(), "seconds": seconds, "blas": blas})


if __name__ == "__main__":
    typer.run(main)
