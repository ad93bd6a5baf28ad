"""Runs pip, apart from the user's settings of Python and from this checkout."""

import os
import subprocess
import sys
from collections.abc import Mapping


def run_pip(
    *arguments: str, environment: Mapping[str, str] | None = None, timeout_s: float | None = None
) -> "subprocess.CompletedProcess[str]":
    """What pip did. Raises subprocess.TimeoutExpired."""
    # Not in the checkout, whose folders would be taken for packages; and with one umask, as a wheel holds permissions.
    return subprocess.run(
        [sys.executable, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", *arguments],
        capture_output=True,
        text=True,
        cwd="/",
        umask=0o022,
        env={**os.environ, **(environment or {})},
        timeout=timeout_s,
    )


def pip_error(standard_error: str) -> str:
    """The line of what pip wrote that says why it failed."""
    lines = standard_error.strip().splitlines() or ["pip said nothing"]
    return next((line for line in lines if line.startswith("ERROR: ")), lines[-1]).removeprefix("ERROR: ")
