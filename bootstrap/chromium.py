"""Finds the Chromium that looks at reports and prints slides."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from features.errors import FruitsError

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


class ChromiumMissing(FruitsError):
    """No Chromium is installed."""


def find_chromium() -> Path:
    """The browser that CHROMIUM names, then one on the path, then those of the usual places.

    Raises ChromiumMissing with what to install.
    """
    for browser in _candidates():
        if _runs(browser):
            return browser
    raise ChromiumMissing(
        "No Chromium was found. Install it (Debian: apt install chromium; macOS: brew install --cask chromium) or set "
        "CHROMIUM to a browser of its kind."
    )


def _candidates() -> Iterator[Path]:
    if "CHROMIUM" in os.environ:
        yield Path(os.environ["CHROMIUM"])
    yield from (Path(found) for name in _NAMES if (found := shutil.which(name)))
    yield from (Path("/Applications", f"{name}.app/Contents/MacOS/{name}") for name in ("Chromium", "Google Chrome"))


def _runs(browser: Path) -> bool:
    # Ubuntu's chromium-browser can be a script that only says where to get one.
    try:
        return subprocess.run([browser, "--version"], capture_output=True, timeout=60, check=False).returncode == 0
    except OSError:
        return False


if __name__ == "__main__":
    try:
        print(find_chromium())
    except ChromiumMissing as missing:
        raise SystemExit(str(missing)) from missing
