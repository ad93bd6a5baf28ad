"""What can go wrong, and whether trying again can help."""

from typing import ClassVar


class FruitsError(Exception):
    """A failure the program can explain in one sentence; the message says what to do."""

    retryable: ClassVar[bool] = False


class InvalidSetting(FruitsError):
    """A setting, flag or argument is unusable as given."""


class StorageUnavailable(FruitsError):
    """Object storage did not answer, or refused, until the deadline; nothing was half-written."""

    retryable = True


class WeightsUnavailable(FruitsError):
    """No source could supply the network's weights."""


class InvalidWeights(FruitsError):
    """A weights file does not fit the network, or gives features no one should use."""


class FeaturizerConflict(FruitsError):
    """The home already has another featurizer, and rows of both would mix unasked."""


class AnotherStreamRunning(FruitsError):
    """A second stream works on this home; this one has stopped without changing anything."""


class DecoderUnavailable(FruitsError):
    """A process that should decode a suspect photo could not do its work; the photo's outcome is open."""

    retryable = True


class BatchFailed(FruitsError):
    """A micro-batch could not be finished; its plan stays, and the next start takes it up."""

    retryable = True


class StateDamaged(FruitsError):
    """The state or the tables of a home contradict each other."""
