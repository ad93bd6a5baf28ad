"""What Spark takes from this machine: nothing of another Spark or Java, enough open files, room for its own files."""

import os
import pwd
import resource
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyspark

from features.environment import JAVA_OPTIONS, python_environment
from features.errors import FruitsError

# With 256, Java does not start; on two cores 400 are enough.
OPEN_FILES = 512
SCRATCH_BYTES = 64 * 2**20


class MachineUnfit(FruitsError):
    """This machine, as it is set up, cannot run Spark."""


def use_own_spark() -> None:
    """Make this process use the installed Spark, with this interpreter and no settings of another Spark or Java.

    Those settings are deleted from the environment for good, as pyspark reads them at any time.
    Raises MachineUnfit where a process may not open enough files, and for a user without a name.
    """
    _allow_open_files()
    try:
        pwd.getpwuid(os.getuid())
    except KeyError as error:
        raise MachineUnfit(
            f"The user id {os.getuid()} has no name on this machine and Spark needs one; add it to /etc/passwd, or run "
            "the command as a user that is there."
        ) from error
    for name in [name for name in os.environ if name.startswith(_OTHERS) or name in _OTHER]:
        del os.environ[name]
    os.environ.update(
        SPARK_HOME=str(spark_home() if (spark_home() / "jars").exists() else _INSTALLED),
        PYSPARK_PYTHON=sys.executable,
        PYSPARK_DRIVER_PYTHON=sys.executable,
        SPARK_LOCAL_IP="127.0.0.1",
        SPARK_LOCAL_HOSTNAME="localhost",
    )


def spark_home() -> Path:
    """Where the installed Spark can be started without its packed Python modules, once `make_spark_home` was run.

    Spark's Python processes look into the archive first and compile what they import at each start: 0.6 s of a core,
    and 0.25 s from the installed modules (measured for the process of a stream's source).
    """
    return Path(sys.prefix, "var", f"spark-{pyspark.__version__}")


def make_spark_home() -> None:
    """Make this folder of links. Replay changes nothing."""
    spark_home().mkdir(parents=True, exist_ok=True)
    for name in ("bin", "jars"):
        with suppress(FileExistsError):
            (spark_home() / name).symlink_to(_INSTALLED / name)


def spark_environment() -> dict[str, str]:
    """What Spark's processes on this machine get; Java names files as the locale says, which need not be in UTF-8."""
    return python_environment() | {"LC_ALL": "C.UTF-8"}


def local_java_options(scratch: Path) -> list[str]:
    """Options for Spark's Java: its files go to `scratch`; this machine's name and the user's home need not exist."""
    # Spark looks up the name where there are credentials of AWS, and no other one here.
    hosts = scratch / "hosts"
    hosts.write_text(f"127.0.0.1 localhost\n127.0.0.1 {socket.gethostname()}\n")
    properties = {"java.io.tmpdir": scratch, "user.home": scratch, "jdk.net.hosts.file": hosts}
    return [f'"-D{name}={path}"' for name, path in properties.items()]


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A folder for as long as the block lasts, where TMPDIR says. Raises MachineUnfit when it has no room."""
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    except OSError as error:
        raise _no_room(tempfile.tempdir or os.environ.get("TMPDIR", "/tmp"), f"{error.strerror}") from error
    try:
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < SCRATCH_BYTES:
            raise _no_room(
                folder.parent, f"it has {free_bytes / 1e6:.0f} MB free and Spark needs {SCRATCH_BYTES / 1e6:.0f} MB"
            )
        yield folder
    finally:
        # Java may still be writing its last words.
        shutil.rmtree(folder, ignore_errors=True)


def _no_room(folder: str | Path, why: str) -> MachineUnfit:
    return MachineUnfit(
        f"The folder for temporary files, {folder}, cannot be used: {why}. Make room there, or set TMPDIR to a folder "
        "that has room."
    )


def _allow_open_files() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < OPEN_FILES:
        raise MachineUnfit(
            f"A process may open {hard} files here and Spark needs {OPEN_FILES}; raise the limit with "
            f"`ulimit -n {OPEN_FILES}` or in /etc/security/limits.conf."
        )
    if soft != resource.RLIM_INFINITY and soft < _ENOUGH_FILES:
        enough = _ENOUGH_FILES if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_FILES)
        resource.setrlimit(resource.RLIMIT_NOFILE, (enough, hard))


_INSTALLED = Path(pyspark.__file__).parent
_ENOUGH_FILES = 4096
_OTHERS = ("SPARK_", "PYSPARK_", "HADOOP_", "YARN_", "HIVE_")
_OTHER = JAVA_OPTIONS | {"MASTER", "BASH_ENV", "CDPATH"}
