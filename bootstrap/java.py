"""Finds the Java that Spark runs on."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from features.environment import java_environment
from features.errors import FruitsError

VERSIONS = (17, 21)


class JavaMissing(FruitsError):
    """No Java that Spark supports is installed."""


def use_java() -> None:
    """Point JAVA_HOME at a Java 17 or 21: the one set, the one on the path, then the usual places.

    Under spark-submit, Spark's Java is running already, whichever it is, and nothing is changed.
    Raises JavaMissing with what to install.
    """
    if "PYSPARK_GATEWAY_PORT" in os.environ:
        return
    for home in _candidates():
        if _version(home) in VERSIONS:
            os.environ["JAVA_HOME"] = str(home)
            return
    raise JavaMissing(
        "Spark needs Java 17 or 21 and none was found. Install it (Debian, Ubuntu: apt install "
        "openjdk-17-jre-headless; macOS: brew install openjdk@17) or set JAVA_HOME."
    )


def _candidates() -> Iterator[Path]:
    if "JAVA_HOME" in os.environ:
        yield Path(os.environ["JAVA_HOME"])
    if java := shutil.which("java"):
        yield Path(java).resolve().parent.parent
    for pattern in ("/usr/lib/jvm/*", "/opt/homebrew/opt/openjdk@*", "/usr/local/opt/openjdk@*"):
        yield from sorted(Path("/").glob(pattern.removeprefix("/")))


def _version(home: Path) -> int | None:
    java = home / "bin" / "java"
    if not java.exists():
        return None
    asked = subprocess.run([java, "-version"], capture_output=True, text=True, check=False, env=java_environment())
    match = re.search(r'version "(\d+)', asked.stderr)
    return int(match[1]) if match else None


if __name__ == "__main__":
    try:
        use_java()
    except JavaMissing as missing:
        raise SystemExit(str(missing)) from missing
    print(os.environ["JAVA_HOME"])
