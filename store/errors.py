"""What can go wrong with a home, its storage and the work on it."""

from features.errors import FruitsError


class StorageUnavailable(FruitsError):
    """Storage did not do what it was asked until the deadline; nothing was half-written."""

    retryable = True


class StorageRefused(StorageUnavailable):
    """Storage said no, and will again: a permission, a key, a bucket."""

    retryable = False


class CloudUnavailable(FruitsError):
    """AWS did not do what it was asked; what was done before stays, and the same command goes on from there."""

    retryable = True


class CloudRefused(CloudUnavailable):
    """AWS said no, and will again until somebody changes something; what was done before stays."""

    retryable = False


class BucketMissing(StorageRefused):
    """There is no such bucket; nothing was made."""


class AccessDenied(StorageRefused):
    """Whoever runs this may not read a home; nothing of it was read or written."""


class HomeNotWritable(StorageRefused):
    """Nothing can be written where a home is or should be; nothing was made."""


class HomeMissing(FruitsError):
    """There is no home where one is named; nothing was made."""


class NothingIngested(FruitsError):
    """A home in which nothing was ingested yet, so that there is nothing to do: no failure."""

    exit_code = 0


class UnsafeStorage(FruitsError):
    """Storage does not keep to a condition without which photos could be lost or doubled; no photo was touched."""


class OutsideEurope(FruitsError):
    """Photos or what was made of them would lie outside the European Union; nothing was read or written."""


class FeaturizerConflict(FruitsError):
    """The home already has another featurizer, and rows of both would mix unasked."""


class AnotherStreamRunning(FruitsError):
    """A second stream works on this home; this one has stopped without changing anything."""

    exit_code = 3


class VersionHeldBack(FruitsError):
    """A new version names fruit worse than another one does: it is published, and is not the next one."""

    exit_code = 4


class StreamDoesNotStop(FruitsError):
    """A stream that was asked to stop has not said that it did."""

    retryable = True


class RejectsStillWait(FruitsError):
    """Rejects that were asked for are not tried again yet; the request stands."""

    retryable = True


class HomeInUse(FruitsError):
    """Other work on the tables is under way; this one has changed nothing."""

    retryable = True


class UnknownModel(FruitsError):
    """No PCA model has this version, or it cannot be used as asked."""


class NetworkIncomplete(FruitsError):
    """Photos have no row yet of the network of a version, so the version is not served."""


class AnotherRefit(FruitsError):
    """Another refit published first, or another version took the place of this one; nothing of this one is left."""

    retryable = True


class BatchFailed(FruitsError):
    """A micro-batch could not be finished; its plan stays, and the next start takes it up."""

    retryable = True


class JobFailed(FruitsError):
    """A job over the tables could not be finished; what it had committed stays, and a replay does the rest."""

    retryable = True


class StateDamaged(FruitsError):
    """The state or the tables of a home contradict each other."""
