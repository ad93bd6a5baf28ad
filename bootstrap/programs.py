"""Finds the programs that pip does not install: the Java that Spark runs on, and a Chromium for slides and tests.

`python -m bootstrap.programs java` (or `chromium`) prints where it is.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from features.environment import JAVA_OPTIONS
from features.errors import FruitsError

JAVA_VERSIONS = (17, 21)
_CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class JavaMissing(FruitsError):
    """No Java that Spark supports is installed."""


class ChromiumMissing(FruitsError):
    """No Chromium is installed."""


def use_java() -> None:
    """Point JAVA_HOME at a Java 17 or 21: the one set, the one on the path, then the usual places.

    Under spark-submit nothing is changed: Spark's Java runs already. Raises JavaMissing with what to install.
    """
    if "PYSPARK_GATEWAY_PORT" not in os.environ:
        os.environ["JAVA_HOME"] = str(_find_java())


def find_chromium() -> Path:
    """The browser that CHROMIUM names, then one on the path, then those of the usual places.

    Raises ChromiumMissing with what to install.
    """
    for browser in _chromium_candidates():
        # Ubuntu's chromium-browser can be a script that only says where to get one.
        if _output(browser, "--version") is not None:
            return browser
    raise ChromiumMissing(
        "No Chromium was found. Install it (Debian: apt install chromium; macOS: brew install --cask chromium) or set "
        "CHROMIUM to a browser of its kind."
    )


def _find_java() -> Path:
    for home in _java_candidates():
        version = re.search(r'version "(\d+)', _output(home / "bin" / "java", "-version") or "")
        if version is not None and int(version[1]) in JAVA_VERSIONS:
            return home
    raise JavaMissing(
        "Spark needs Java 17 or 21 and none was found. Install it (Debian, Ubuntu: apt install "
        "openjdk-17-jre-headless; macOS: brew install openjdk@17) or set JAVA_HOME."
    )


def _java_candidates() -> Iterator[Path]:
    if "JAVA_HOME" in os.environ:
        yield Path(os.environ["JAVA_HOME"])
    if java := shutil.which("java"):
        yield Path(java).resolve().parent.parent
    for pattern in ("usr/lib/jvm/*", "opt/homebrew/opt/openjdk@*", "usr/local/opt/openjdk@*"):
        yield from sorted(Path("/").glob(pattern))


def _chromium_candidates() -> Iterator[Path]:
    if "CHROMIUM" in os.environ:
        yield Path(os.environ["CHROMIUM"])
    yield from (Path(found) for name in _CHROMIUM_NAMES if (found := shutil.which(name)))
    yield from (Path("/Applications", f"{name}.app/Contents/MacOS/{name}") for name in ("Chromium", "Google Chrome"))


def _output(program: Path, option: str) -> str | None:
    """What a program writes for an option; None if it cannot run or fails."""
    environment = {name: value for name, value in os.environ.items() if name not in JAVA_OPTIONS}
    try:
        done = subprocess.run([program, option], capture_output=True, text=True, timeout=60, env=environment)
    except OSError:
        return None
    return done.stdout + done.stderr if done.returncode == 0 else None


if __name__ == "__main__":
    try:
        print(_find_java() if sys.argv[1] == "java" else find_chromium())
    except FruitsError as missing:
        raise SystemExit(str(missing)) from missing
