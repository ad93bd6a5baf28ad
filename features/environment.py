"""What the processes that this one starts get: their environment, and whether they see a Ctrl-C."""

import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path


def python_environment() -> dict[str, str]:
    """For a Python process of ours: it looks for modules where this one does, and not in its working directory.

    This project and what is installed come before the standard library, which has no names of theirs, and that before
    nothing: so a `sitecustomize` on the user's PYTHONPATH still counts where the system has one, too.
    """
    given = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    path = dict.fromkeys(filter(None, [*([] if _PROJECT in sys.path else [_PROJECT]), *sys.path, *given]))
    importable = os.pathsep.join(entry for entry in path if entry not in _STANDARD_LIBRARY)
    kept = {name: value for name, value in os.environ.items() if name not in _BEND_PYTHON}
    return kept | {"PYTHONPATH": importable, "PYTHONSAFEPATH": "1"}


@contextmanager
def started_with(environment: Mapping[str, str]) -> Iterator[None]:
    """Give the processes that are started in this block an environment, for starters that take none."""
    before = dict(os.environ)
    _change(before, environment)
    try:
        yield
    finally:
        _change(environment, before)


@contextmanager
def interrupts_withheld() -> Iterator[None]:
    """Processes that are started here never see the Ctrl-C of a terminal: whoever started them ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _change(before: Mapping[str, str], after: Mapping[str, str]) -> None:
    # What somebody else sets in the mean time stays.
    for name in before.keys() - after.keys():
        os.environ.pop(name, None)
    os.environ.update({name: after[name] for name in after if after[name] != before.get(name)})


# Options that are meant for other Java processes than ours.
JAVA_OPTIONS = frozenset({"CLASSPATH", "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"})
_BEND_PYTHON = frozenset({"PYTHONINSPECT", "PYTHONSTARTUP", "PYTHONWARNINGS"})
_PROJECT = str(Path(__file__).parents[1])
_LIBRARY = Path(os.__file__).parent
_STANDARD_LIBRARY = {
    str(_LIBRARY),
    str(_LIBRARY / "lib-dynload"),
    str(_LIBRARY.with_name(f"python{sys.version_info[0]}{sys.version_info[1]}.zip")),
}
