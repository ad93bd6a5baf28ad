"""The root of the errors: what can go wrong, and whether trying again can help."""

from typing import ClassVar


class FruitsError(Exception):
    """A failure the program can explain in one sentence; the message says what to do.

    `photo` is the key of the photo that the message names, if it names one: logs leave it out.
    """

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str = "", photo: str | None = None) -> None:
        super().__init__(message)
        self.photo = photo


class InvalidSetting(FruitsError):
    """A setting, flag or argument is unusable as given."""


class WeightsUnavailable(FruitsError):
    """No source could supply the network's weights."""


class InvalidWeights(FruitsError):
    """A weights file does not fit the network, or gives features no one should use."""


class DecoderUnavailable(FruitsError):
    """A process that should decode a suspect photo could not do its work; the photo's outcome is open."""

    retryable = True
