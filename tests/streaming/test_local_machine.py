"""Streams on other people's machines: what is set up there for something else changes nothing, or is one sentence."""

import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from store.settings import Settings, load_settings
from streaming import local_machine
from streaming.local_machine import MachineUnfit, scratch_folder
from tests.support.pictures import jpeg
from tests.support.stream_run import photos_told, rows

ROOT = Path(__file__).parents[2]
MakeSettings = Callable[..., Settings]
OTHERS = {
    "SPARK_HOME": "/opt/spark-that-is-gone",
    "SPARK_MASTER": "spark://gone.invalid:7077",
    "MASTER": "yarn",
    "SPARK_REMOTE": "sc://gone.invalid:15002",
    "SPARK_CONNECT_MODE_ENABLED": "1",
    "SPARK_API_MODE": "connect",
    "SPARK_LOCAL_IP": "192.0.2.1",
    "SPARK_LOCAL_DIRS": "/proc/nowhere",
    "SPARK_DIST_CLASSPATH": "/gone/*",
    "SPARK_SUBMIT_OPTS": "-Xno-such-option",
    "PYSPARK_SUBMIT_ARGS": "--master yarn --packages io.delta:delta-spark_2.13:4.0.0 pyspark-shell",
    "PYSPARK_PYTHON": "/gone/python",
    "PYSPARK_DRIVER_PYTHON": "jupyter",
    "HADOOP_HOME": "/gone",
    "CLASSPATH": "/gone.jar",
    "JAVA_TOOL_OPTIONS": "-javaagent:/gone.jar",
    "JDK_JAVA_OPTIONS": "-Xno-such-option",
    "_JAVA_OPTIONS": "-Xmx1m",
    "PYTHONHASHSEED": "7",
    "PYTHONSTARTUP": "/gone.py",
    "OMP_NUM_THREADS": "64",
    "HOME": "/proc/nowhere",
    "LC_ALL": "C",
}
OWN_MODULES = (
    "features",
    "streaming",
    "batch",
    "bootstrap",
    "numpy",
    "pyspark",
    "pydantic",
    "PIL",
    "pyarrow",
    "obstore",
)


@pytest.mark.processes
def test_a_stream_depends_on_nothing_that_is_set_up_for_something_else(tmp_path: Path) -> None:
    """One drain of a new home under all of it at once, in a folder with modules of the names of ours."""
    own = tmp_path / "own"
    for folder in ("hadoop", "spark", "modules", "temporary é"):
        (own / folder).mkdir(parents=True)
    (own / "hadoop" / "core-site.xml").write_text(
        "<configuration><property><name>fs.defaultFS</name><value>hdfs://namenode.invalid:8020</value></property>"
        "</configuration>"
    )
    (own / "spark" / "spark-defaults.conf").write_text("spark.eventLog.enabled true\nspark.eventLog.dir hdfs://x/y\n")
    for name in OWN_MODULES:
        for folder in (own, own / "modules"):
            (folder / f"{name}.py").write_text("raise SystemExit('a module of the user')\n")
    (own / "fruits").write_text("from fruits_launcher import main\nif __name__ == '__main__':\n    main()\n")
    settings = load_settings(home=str(tmp_path / "home"))
    landing = settings.places().landing.directory
    (landing / "kiwi").mkdir(parents=True)
    (landing / "kiwi" / "1.jpg").write_bytes(jpeg(seed=1))
    environment = {**os.environ, **OTHERS} | {
        "HADOOP_CONF_DIR": f"{own}/hadoop",
        "SPARK_CONF_DIR": f"{own}/spark",
        "TMPDIR": f"{own}/temporary é",
        "PYTHONPATH": os.pathsep.join((f"{own}/modules", str(ROOT))),
        "FRUITS_WEIGHTS": "untrained:7",
    }
    command = [sys.executable, own / "fruits", "stream", "--drain", "--settle", "0s", "--master", "local[2]"]
    drained = subprocess.run(
        [*_without_a_name_that_resolves(), *command, "--home", settings.home],
        capture_output=True,
        text=True,
        cwd=own,
        env=environment,
        preexec_fn=lambda: _limit_open_files(64, None),
    )

    assert drained.returncode == 0, drained.stderr
    assert photos_told(drained.stdout) == 1
    assert [row["label"] for row in rows(settings, "SELECT label FROM features")] == ["kiwi"]
    assert os.listdir(own / "temporary é") == []  # noqa: PTH208 - names only


def test_a_limit_of_open_files_that_is_too_small_is_one_sentence() -> None:
    code = "from streaming.local_machine import use_own_spark; use_own_spark()"
    found = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        preexec_fn=lambda: _limit_open_files(128, 128),
    )
    assert found.stderr.endswith(
        "MachineUnfit: A process may open 128 files here and Spark needs 512; raise the limit with `ulimit -n 512` or "
        "in /etc/security/limits.conf.\n"
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become a user without a name")
def test_a_user_without_a_name_is_one_sentence() -> None:
    code = "import os; from streaming.local_machine import use_own_spark; os.setuid(12345); use_own_spark()"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "MachineUnfit: The user id 12345 has no name on this machine and Spark needs one; add it to" in found.stderr


def test_a_folder_for_temporary_files_without_room_is_one_sentence_that_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(local_machine, "SCRATCH_BYTES", 2**60)
    too_little = pytest.raises(MachineUnfit, match=rf"{tmp_path}, cannot be used: it has \d+ MB free and Spark needs")
    with too_little, scratch_folder("fruits"):
        pass
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr("tempfile.tempdir", "/proc/nowhere")
    not_there = pytest.raises(MachineUnfit, match=r"/proc/nowhere, cannot be used: .* or set TMPDIR to a folder that")
    with not_there, scratch_folder("fruits"):
        pass


def _without_a_name_that_resolves() -> list[str]:
    """What gives a command a host name that nobody knows, where this user may do that."""
    if subprocess.run(["unshare", "--uts", "true"], capture_output=True).returncode:
        return []
    return ["unshare", "--uts", "bash", "-c", 'hostname no-such-host.invalid && exec "$0" "$@"']


def _limit_open_files(soft: int, hard: int | None) -> None:
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, most if hard is None else hard))
