"""Spark on all cores of this machine, as those use it who write a notebook."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pyspark.sql import SparkSession

from bootstrap.programs import use_java


@contextmanager
def local_spark(name: str, options: dict[str, str]) -> Iterator[SparkSession]:
    """A session for one job. Raises JavaMissing."""
    use_java()
    os.environ["PYSPARK_PYTHON"] = os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    usual = {"spark.driver.host": "127.0.0.1", "spark.ui.enabled": "false", "spark.ui.showConsoleProgress": "false"}
    builder = SparkSession.builder.master("local[*]").appName(name)
    session = builder.config(map={**usual, **options}).getOrCreate()
    try:
        yield session
    finally:
        session.stop()
