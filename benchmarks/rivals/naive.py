"""The usual notebook: Spark's binaryFile reader and a pandas UDF around Keras."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from pyspark.sql import SparkSession
from pyspark.sql import functions as sql
from pyspark.sql.pandas.functions import pandas_udf

from benchmarks.rivals.job import CORES, Run, compete, peak_mb, photo_files
from benchmarks.rivals.spark import local_spark
from bootstrap.weights import network, weights
from bootstrap.weights.preprocessing import preprocess
from features.featurizer import INPUT_PX

# Rows that Spark hands to Python at once. Its default of 10000 would be 40 GB of 12 MP photos; Keras gains nothing
# beyond some dozens. TensorFlow keeps its threads: one thread for each worker was no faster.
ROWS_AT_ONCE = 32


@contextmanager
def opened(source: str) -> Iterator[Run]:
    """Spark on all cores, and the weights of `source` (spelled as the `weights` setting is) in a broadcast."""
    options = {
        "spark.driver.memory": "4g",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(ROWS_AT_ONCE),
        "spark.sql.files.openCostInBytes": "0",
        "spark.sql.files.minPartitionNum": "1",
    }
    with local_spark("naive", options) as session:
        model = weights.fetch(source, print).load().model
        assert model is not None
        yield partial(_run, session, model.get_weights())


def _run(session: SparkSession, arrays: list[NDArray[np.float32]], photos: Path, out: Path) -> None:
    # One task for each core, since each task loads the network anew: by default a file counts for 4 MB more than it
    # has, and 500 small photos become 16 tasks.
    sizes = [path.stat().st_size for path in photo_files(photos)]
    session.conf.set("spark.sql.files.maxPartitionBytes", sum(sizes) // CORES + max(sizes))
    held = session.sparkContext.broadcast(arrays)

    @pandas_udf("features array<float>, worker_peak_mb float")  # type: ignore[call-overload, untyped-decorator]
    def featurize(batches: Iterator[pd.Series]) -> Iterator[pd.DataFrame]:
        model = network.build()
        model.set_weights(held.value)
        for contents in batches:
            pixels = np.stack([_pixels(content) for content in contents])
            vectors = model.predict(preprocess(pixels), verbose=0)
            yield pd.DataFrame({"features": list(vectors), "worker_peak_mb": peak_mb()})

    files = session.read.format("binaryFile").option("pathGlobFilter", "*.jpg").option("recursiveFileLookup", "true")
    (
        files.load(str(photos))
        .select(
            sql.col("path").alias("source"),
            sql.sha2("content", 256).alias("image_id"),
            sql.element_at(sql.split("path", "/"), -2).alias("label"),
            featurize("content").alias("seen"),
        )
        .select("source", "image_id", "label", "seen.*")
        .write.parquet(str(out))
    )


def _pixels(content: bytes) -> NDArray[np.float32]:
    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB").resize((INPUT_PX, INPUT_PX)), np.float32)


if __name__ == "__main__":
    compete("naive", opened, "--weights", usual="untrained:7")
