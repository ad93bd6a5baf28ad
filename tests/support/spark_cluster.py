"""A Spark cluster of processes on this machine, whose nodes have the project as machines of a real one have it."""

import os
import signal
import subprocess
import sys
import sysconfig
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyspark

from bootstrap.aws.wheelhouse import build_wheel
from bootstrap.programs import use_java
from features.errors import FruitsError

SPARK_HOME = Path(pyspark.__file__).parent
START_S = 60.0
WORKER_MEMORY = "1g"


class ClusterUnavailable(FruitsError):
    """The cluster's processes could not be started."""


@dataclass(frozen=True)
class Cluster:
    """A running standalone cluster; `url` is what `--master` takes.

    Each worker leads a session of processes, by which what it started is found even when it is gone itself.
    """

    url: str
    folder: Path
    cores: int
    master: "subprocess.Popen[bytes]"
    workers: "list[subprocess.Popen[bytes]]"

    def start_worker(self) -> int:
        """Add a worker and return its pid; the master knows it some two seconds later."""
        number = len(self.workers)
        offer = ("--cores", f"{self.cores}", "--memory", WORKER_MEMORY, "--work-dir", f"{self.folder}/work-{number}")
        self.workers.append(_java(self.folder, f"worker-{number}", f"{_DEPLOY}.worker.Worker", *offer, self.url))
        return self.workers[-1].pid

    def worker_pids(self) -> list[int]:
        """The workers that live."""
        return [worker.pid for worker in self.workers if worker.poll() is None]

    def executor_pids(self) -> list[int]:
        """The Java processes that run an application's tasks."""
        return [process.pid for process in self._processes() if process.is_executor]

    def python_worker_pids(self) -> list[int]:
        """The Python processes that run tasks: what the executors' daemons forked."""
        processes = self._processes()
        daemons = {process.pid for process in processes if process.is_python and not process.parent_is_python}
        return [process.pid for process in processes if process.is_python and process.pid not in daemons]

    def node_of(self, pid: int) -> int:
        """The pid of the worker, alive or not, under which a process was started."""
        return os.getsid(pid)

    def _processes(self) -> "list[Process]":
        return processes_of({worker.pid for worker in self.workers})


@dataclass(frozen=True)
class Process:
    """A living process: its command line and its parent's, arguments ended by zero bytes."""

    pid: int
    command: bytes
    parents_command: bytes

    @property
    def is_executor(self) -> bool:
        return b"CoarseGrainedExecutorBackend" in self.command

    @property
    def is_python(self) -> bool:
        return b"pyspark.daemon" in self.command

    @property
    def parent_is_python(self) -> bool:
        return b"pyspark.daemon" in self.parents_command


def processes_of(leaders: set[int]) -> list[Process]:
    """The living processes of the sessions that these pids lead or led; a zombie has no command and is left out."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            _, parent, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            command = (folder / "cmdline").read_bytes()
            if int(session) in leaders and command:
                found.append(Process(int(folder.name), command, _command(parent)))
    return found


@contextmanager
def spark_cluster(folder: Path, workers: int = 2, cores: int = 1) -> Iterator[Cluster]:
    """A master and `workers` workers of `cores` cores on 127.0.0.1; everything they started is killed at the end.

    What they say and keep goes below `folder`, an existing directory. Raises ClusterUnavailable and JavaMissing.
    """
    use_java()
    log = folder / "master.log"
    master = _java(folder, "master", f"{_DEPLOY}.master.Master", "--port", "0")
    cluster = None
    try:
        cluster = Cluster(_announced(log, master), folder, cores, master, [])
        for _ in range(workers):
            cluster.start_worker()
        yield cluster
    finally:
        started = [master, *(cluster.workers if cluster else ())]
        # Whoever was about to start another process when it was killed leaves it to the next look.
        while living := processes_of({process.pid for process in started}):
            for process in living:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
            time.sleep(0.05)
        for java in started:
            java.wait()


def node_python(folder: Path) -> Path:
    """A Python as a bootstrap action leaves it on every node: an environment with this project's wheel.

    What the project depends on is taken from the running interpreter's packages, so nothing is downloaded; that the
    checkout may be installed there too does not count, since its import hook is not read. Returns the interpreter.
    """
    environment = folder / "venv"
    wheel = build_wheel(folder)
    venv.create(environment, symlinks=True)
    python = environment / "bin" / "python"
    _pip("--python", f"{python}", "install", "--no-deps", "--no-index", "--no-compile", f"{wheel}")
    own = environment / "lib" / f"python{sys.version_info[0]}.{sys.version_info[1]}" / "site-packages"
    (own / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


_DEPLOY = "org.apache.spark.deploy"
# They hand out executors and do no work.
_LIGHT_JVM = ("-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def _java(folder: Path, name: str, main: str, *arguments: str) -> "subprocess.Popen[bytes]":
    java = Path(os.environ["JAVA_HOME"]) / "bin" / "java"
    command = [f"{java}", *_LIGHT_JVM, "-Dspark.master.rest.enabled=false", "-cp", f"{SPARK_HOME}/jars/*", main]
    # A node knows nothing of who starts a job: no settings of Spark, no paths to a checkout, no choice of a Python.
    environment = {key: os.environ[key] for key in os.environ if not key.startswith(("PYTHON", "PYSPARK", "SPARK"))}
    environment |= {
        "SPARK_HOME": f"{SPARK_HOME}",
        "SPARK_LOCAL_DIRS": f"{folder}/local",
        "SPARK_LOCAL_IP": "127.0.0.1",
        # What Spark's own scripts say to the classes that start executors.
        "SPARK_SCALA_VERSION": "2.13",
    }
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, "--host", "127.0.0.1", "--webui-port", "0", *arguments],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )


def _announced(log: Path, master: "subprocess.Popen[bytes]") -> str:
    deadline_s = time.monotonic() + START_S
    while time.monotonic() < deadline_s and master.poll() is None:
        whole_lines = log.read_text(errors="replace").split("\n")[:-1]
        for line in whole_lines:
            if "Starting Spark master at " in line:
                return line.rpartition(" ")[2]
        time.sleep(0.05)
    raise ClusterUnavailable(f"Spark's master does not start; {log} says why.")


def _command(pid: str) -> bytes:
    with suppress(OSError):
        return Path("/proc", pid, "cmdline").read_bytes()
    return b""


def _pip(*arguments: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        cwd="/",
    )
    if done.returncode:
        raise ClusterUnavailable(f"The nodes' Python cannot be made: {done.stderr.strip().splitlines()[-1]}")
