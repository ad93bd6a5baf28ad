"""The log that Java writes on a cluster turns over, and holds warnings only."""

from pathlib import Path

import pytest
from pyspark import SparkConf, SparkContext
from pyspark.java_gateway import launch_gateway

from bootstrap.aws.template import read_template
from bootstrap.programs import use_java
from streaming.local_machine import use_own_spark

CONFIGURATION = Path(__file__).parents[2] / "streaming" / "yarn-log4j2.properties"
LARGEST_MB = 16


def test_warnings_of_months_take_four_files_and_nothing_else_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_java()
    use_own_spark()
    smaller = tmp_path / CONFIGURATION.name
    text = CONFIGURATION.read_text()
    assert f"{LARGEST_MB}MB" in text
    smaller.write_text(text.replace(f"{LARGEST_MB}MB", "20KB"))
    options = f"-Dspark.yarn.app.container.log.dir={tmp_path}/log -Dlog4j2.configurationFile={smaller.as_uri()}"
    monkeypatch.setattr(SparkContext, "_gateway", None)
    gateway = launch_gateway(SparkConf(loadDefaults=False).set("spark.driver.extraJavaOptions", options))
    try:
        log = gateway.jvm.org.apache.logging.log4j.LogManager.getLogger("org.apache.spark.Something")
        for number in range(1_000):
            log.warn(
                f"Warning {number:05d} of a hundred characters, as a stream may give with each of its batches ....."
            )
            log.info("Nothing that anybody reads.")
    finally:
        gateway.shutdown()
        gateway.proc.stdin.close()
        gateway.proc.wait(30)

    files = {file.name: file.read_text() for file in (tmp_path / "log").iterdir()}
    assert files.keys() == {"spark.log", "spark.log.1", "spark.log.2", "spark.log.3"}
    assert sum(map(len, files.values())) < 4 * 25_000
    assert not any("anybody reads" in log for log in files.values())
    assert any("WARN Something: Warning 00999 of" in log for log in files.values())
    assert not any("Warning 00000 of" in log for log in files.values())


def test_driver_and_executors_of_the_cluster_get_this_log_at_the_path_where_nodes_have_it() -> None:
    configurations = read_template().sections["Resources"]["Cluster"]["Properties"]["Configurations"]
    (spark,) = (each for each in configurations if each["Classification"] == "spark-defaults")
    properties = spark["ConfigurationProperties"]
    folder = "/opt/fruits/lib/python3.11/site-packages/" + CONFIGURATION.parent.name
    for process in ("driver", "executor"):
        option = properties[f"spark.{process}.extraJavaOptions"]
        assert option == f"-Dlog4j2.configurationFile=file://{folder}/{CONFIGURATION.name}"
