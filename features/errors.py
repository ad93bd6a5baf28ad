"""The root of the errors: what can go wrong, and whether trying again can help."""

import re
from typing import ClassVar


class FruitsError(Exception):
    """A failure the program can explain in one sentence; the message says what to do."""

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


def last_words(error: Exception) -> str:
    """The sentence that matters in what Spark raises: our own error's, else the last one of a Python traceback."""
    text = str(getattr(error, "java_exception", error))
    ours = re.findall(r"^(?:features|store)\.[\w.]+\.\w+: (.+)$", text, flags=re.MULTILINE)
    pythons = re.findall(r"^[\w.]+(?:Error|Exception|Exit|Interrupt)\b.*$", text, flags=re.MULTILINE)
    return str((ours or pythons or text.strip().splitlines()[:1] or [type(error).__name__])[-1]).rstrip(".")


class InvalidSetting(FruitsError):
    """A setting, flag or argument is unusable as given."""


class WeightsUnavailable(FruitsError):
    """No source could supply the network's weights."""


class InvalidWeights(FruitsError):
    """A weights file does not fit the network, or gives features no one should use."""


class DecoderUnavailable(FruitsError):
    """A process that should decode a suspect photo could not do its work; the photo's outcome is open."""

    retryable = True
