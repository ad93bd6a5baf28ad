"""What the session's Python side does when its Java process ends."""

import socket
import struct

import pyspark
import pytest
from pyspark.accumulators import _start_update_server
from pyspark.sql import SparkSession

from streaming.local_machine import spark_home
from streaming.session import print_no_end_of_java

NO_UPDATES = struct.pack("!i", 0)


@pytest.mark.parametrize(("sent", "is_printed"), [(b"token" + NO_UPDATES, False), (b"wrong" + NO_UPDATES, True)])
def test_a_java_process_that_ends_prints_no_traceback_and_any_other_error_does(
    sent: bytes, is_printed: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    server = _start_update_server("token", False)
    print_no_end_of_java(server)
    with socket.create_connection(server.server_address) as java:
        java.sendall(sent)
        # A connection that is refused ends after the traceback.
        assert java.recv(1) == (b"" if is_printed else b"\1")
    server.shutdown()
    assert ("Traceback" in capsys.readouterr().err) is is_printed


def test_workers_import_the_installed_modules_and_not_packed_ones(spark: SparkSession) -> None:
    if not spark_home().exists():
        pytest.skip("`make java` makes the folder that Spark starts from")
    [found] = spark.sparkContext.parallelize([0], 1).map(lambda _: pyspark.__file__).collect()
    assert found == pyspark.__file__
