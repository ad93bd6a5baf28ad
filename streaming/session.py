"""The Spark session the stream runs in."""

import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from socketserver import TCPServer
from typing import Any, TypeAlias

from py4j.protocol import Py4JError
from pyspark import SparkContext
from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from features.environment import started_with
from features.errors import FruitsError
from streaming.local_machine import local_java_options, scratch_folder, spark_environment, spark_home, use_own_spark
from streaming.threads import in_thread

# What jobs are given to, for those who hand it on.
Spark: TypeAlias = SparkContext


class SparkUnavailable(FruitsError):
    """Spark could not be started, or its Java process has ended."""

    retryable = True


@contextmanager
def spark_session(master: str, name: str) -> Iterator[tuple[SparkSession, Path]]:
    """A session and a directory, both for as long as the block lasts. Raises SparkUnavailable and MachineUnfit."""
    with scratch_folder(name) as scratch:
        session = open_session(master, scratch, name)
        try:
            yield session, scratch
        except BaseException as error:
            _end_java_if_interrupted(error)
            raise
        finally:
            close_session(session)


def open_session(master: str, scratch: Path, name: str = "fruits", java_options: str | None = None) -> SparkSession:
    """A session on `master`; Spark's files and its log go below `scratch`.

    On this machine executors run this interpreter; on a cluster the one that PYSPARK_PYTHON names, else one at the same
    path. On YARN the cluster's own settings count. Java gets `java_options` in place of the class archive.
    Raises SparkUnavailable with Spark's last words, and MachineUnfit where this machine cannot run Spark.
    """
    # Under spark-submit Java runs already, with what it was given.
    is_local = master.startswith("local") and "PYSPARK_GATEWAY_PORT" not in os.environ
    if is_local:
        use_own_spark()
    builder = (
        SparkSession.builder.appName(name)
        .config("spark.sql.warehouse.dir", f"{scratch}/warehouse")
        .config("spark.ui.showConsoleProgress", "false")
        .config("spark.sql.streaming.metricsEnabled", "false")
        .config("spark.sql.streaming.minBatchesToRetain", "2")
    )
    if master.startswith("yarn"):
        # Where the log goes is the cluster's business; that of months holds warnings only.
        return _started(builder.config("spark.log.level", "WARN"))
    log4j = scratch / "log4j2.properties"
    log4j.write_text(_QUIET)
    os.environ["PYSPARK_DRIVER_PYTHON"] = sys.executable
    if master.startswith("local") or "PYSPARK_PYTHON" not in os.environ:
        os.environ["PYSPARK_PYTHON"] = sys.executable
    if master.startswith(_ON_THIS_MACHINE):
        builder = builder.config("spark.driver.host", "127.0.0.1")
    options = [f"-Dlog4j2.configurationFile={log4j.as_uri()}", _LIGHT_JVM, java_options or _class_archive_option()]
    if is_local:
        options += local_java_options(scratch)
        builder = builder.config("spark.local.dir", f"{scratch}").config("spark.driver.bindAddress", "127.0.0.1")
    builder = (
        builder.master(master)
        .config("spark.ui.enabled", "false")
        .config("spark.driver.extraJavaOptions", " ".join(options))
    )
    log = scratch / "spark.log"
    try:
        inherited = started_with(spark_environment()) if is_local else nullcontext()
        with inherited, _standard_error_to(log):
            return _started(builder)
    except BaseException as error:
        _end_java_if_interrupted(error)
        if not isinstance(error, (Py4JError, PySparkException, OSError, ValueError)):
            raise
        lines = log.read_text(errors="replace").splitlines()
        # Indented lines are frames of a stack, and Java warns of what it always does.
        messages = [line for line in lines if line.strip() and not line[0].isspace() and "WARN" not in line]
        words = messages[-1] if messages else f"its Java process ended ({type(error).__name__})"
        raise SparkUnavailable(f"Spark does not start: {words}") from error


def close_session(session: SparkSession) -> None:
    """Stop Spark, its Java process and the thread that answers it: the process can then end in peace."""
    gateway = session.sparkContext._gateway
    # A Java process that is gone has stopped; its users report what that broke.
    with suppress(Py4JError, ConnectionError):
        session.stop()
    if gateway is not None:
        gateway.shutdown()
        SparkContext._gateway = SparkContext._jvm = None


def _end_java_if_interrupted(error: BaseException) -> None:
    java = getattr(SparkContext._gateway, "proc", None)
    if isinstance(error, Exception) or java is None:
        return
    # An interrupted call has no answer yet: the next answer would be taken for it. After a signal Java still deletes
    # its files.
    java.terminate()
    with suppress(subprocess.TimeoutExpired):
        java.wait(_JAVA_ENDS_S)


def class_archive() -> Path:
    """Where the classes of this Spark and this Java are kept, parsed and ready, if they are."""
    release = Path(os.environ["JAVA_HOME"], "release")
    java = hashlib.sha256(release.read_bytes() if release.exists() else os.environ["JAVA_HOME"].encode())
    return spark_home() / f"java-{java.hexdigest()[:12]}.jsa"


def _class_archive_option() -> str:
    if "JAVA_HOME" not in os.environ or not class_archive().exists():
        return ""
    # Java goes without an archive that does not fit, and need not say so.
    return f'"-XX:SharedArchiveFile={class_archive()}"'


@contextmanager
def _standard_error_to(path: Path) -> Iterator[None]:
    # The Java process and its Python workers inherit it, and would write across the panel for as long as they live.
    sys.stderr.flush()
    kept = os.dup(2)
    with path.open("wb") as file:
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _started(builder: SparkSession.Builder) -> SparkSession:
    # In the main thread a Spark context would take Ctrl-C for itself, and cancel the batch in hand.
    session = in_thread(builder.getOrCreate).result()
    print_no_end_of_java(session.sparkContext._accumulatorServer)
    return session


def print_no_end_of_java(server: TCPServer) -> None:
    """Let the server that gets Java's accumulators end a connection without a traceback when Java is gone.

    Java ends first after a signal. Whoever still needs it gets an error of its own.
    """
    print_error = server.handle_error

    def handle_error(request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), (EOFError, ConnectionError)):
            print_error(request, client_address)

    server.handle_error = handle_error  # type: ignore[method-assign]


_JAVA_ENDS_S = 5.0

# Elsewhere executors must find the driver under the name that Spark found for this machine, or was given.
_ON_THIS_MACHINE = ("local", "spark://127.0.0.1:")

# Java only hands out work here. Its optimizing compiler and parallel collector took 9 % of the cores from the Python
# workers in a stream's first minute, and 3 % are left with these (two cores, 350 px photos).
_LIGHT_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xlog:disable"

# A failure reaches the user once, as a sentence; Spark's own report of it stays in its log.
_QUIET = """\
rootLogger.level = warn
rootLogger.appenderRef.stderr.ref = stderr
appender.stderr.type = Console
appender.stderr.name = stderr
appender.stderr.target = SYSTEM_ERR
appender.stderr.layout.type = PatternLayout
appender.stderr.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
"""
