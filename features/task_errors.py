"""Errors that cross from a Spark task to the driver as values, in the text by which Spark reports a failed task."""

import json
import re
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, ParamSpec, TypeVar

from features.errors import FruitsError

_P = ParamSpec("_P")
_T = TypeVar("_T")


class TaskFailed(Exception):
    """What a task raises in place of an error of ours; its text has the error's class and arguments, as JSON."""


def carry_errors(work: Callable[_P, _T]) -> Callable[_P, _T]:
    """Make a task's function raise FruitsErrors as `carried_error` finds them; what it yields is collected first."""

    @wraps(work)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> Any:
        try:
            result = work(*args, **kwargs)
            return iter(list(result)) if isinstance(result, Iterator) else result
        except FruitsError as error:
            raise TaskFailed(json.dumps([type(error).__name__, str(error), error.photo])) from error

    return run


def carried_error(error: Exception) -> FruitsError | None:
    """The error of ours of which a task failed, with its class; None when it failed of something else."""
    found = _RECORD.findall(_text(error))
    if not found:
        return None
    name, message, photo = json.loads(found[-1])
    kind = next((kind for kind in _kinds(FruitsError) if kind.__name__ == name), FruitsError)
    return kind(message, photo=photo)


def last_words(error: Exception) -> str:
    """The sentence that matters in what Spark raises, without its full stop: our own, else Python's last one."""
    ours, text = carried_error(error), _text(error)
    pythons = re.findall(r"^[\w.]+(?:Error|Exception|Exit|Interrupt)\b.*$", text, flags=re.MULTILINE)
    words = str(ours) if ours else (pythons[-1:] or text.strip().splitlines()[:1] or [type(error).__name__])[0]
    return words.rstrip(".")


def _text(error: Exception) -> str:
    return str(getattr(error, "java_exception", error))


def _kinds(kind: type[FruitsError]) -> Iterator[type[FruitsError]]:
    yield kind
    for narrower in kind.__subclasses__():
        yield from _kinds(narrower)


# The last line of a Python traceback.
_RECORD = re.compile(rf"^{re.escape(__name__)}\.TaskFailed: (\[.*\])$", flags=re.MULTILINE)
