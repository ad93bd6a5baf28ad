"""What Spark takes from this machine: nothing of another Spark or Java, enough open files, room for its own files."""

import os
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyspark

from features.environment import JAVA_OPTIONS, python_environment
from features.errors import FruitsError

OPEN_FILES = 512
SCRATCH_BYTES = 64 * 2**20


class MachineUnfit(FruitsError):
    """This machine, as it is set up, cannot run Spark."""


def use_own_spark() -> None:
    """Make this process use the installed Spark, with this interpreter and no settings of another Spark or Java.

    Those are forgotten for good, since pyspark looks at them for as long as it is used.
    Raises MachineUnfit where a process may not open enough files.
    """
    _allow_open_files()
    for name in [name for name in os.environ if name.startswith(_OTHERS) or name in _OTHER]:
        del os.environ[name]
    os.environ.update(
        SPARK_HOME=str(Path(pyspark.__file__).parent),
        PYSPARK_PYTHON=sys.executable,
        PYSPARK_DRIVER_PYTHON=sys.executable,
        # The machine's own name need not resolve.
        SPARK_LOCAL_IP="127.0.0.1",
        SPARK_LOCAL_HOSTNAME="localhost",
    )


def spark_environment() -> dict[str, str]:
    """What Spark's processes on this machine get; Java names files as the locale says, which need not be in UTF-8."""
    return python_environment() | {"LC_ALL": "C.UTF-8"}


@contextmanager
def scratch_folder(name: str) -> Iterator[Path]:
    """A folder for as long as the block lasts, where TMPDIR says. Raises MachineUnfit when it has no room."""
    try:
        folder = tempfile.mkdtemp(prefix=f"{name}-")
    except OSError as error:
        raise _no_room(f"{error.strerror}") from error
    try:
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < SCRATCH_BYTES:
            raise _no_room(f"it has {free_bytes / 1e6:.0f} MB free and Spark needs {SCRATCH_BYTES / 1e6:.0f} MB")
        yield Path(folder)
    finally:
        # Java may still be writing its last words.
        shutil.rmtree(folder, ignore_errors=True)


def _no_room(why: str) -> MachineUnfit:
    folder = os.environ.get("TMPDIR") or "/tmp"
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


_ENOUGH_FILES = 4096
_OTHERS = ("SPARK_", "PYSPARK_", "HADOOP_", "YARN_", "HIVE_")
_OTHER = JAVA_OPTIONS | {"MASTER", "BASH_ENV", "CDPATH"}
