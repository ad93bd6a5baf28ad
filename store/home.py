"""Where everything of one installation lives."""

from dataclasses import dataclass
from pathlib import Path

from store.errors import StateDamaged
from store.objects.location import StorageLocation


@dataclass(frozen=True)
class Home:
    """The places below one root URI; the landing and the archive can be elsewhere.

    `other_landings` are those that the home knows beside today's: where photos landed before, and former names of a
    landing that has moved.
    """

    root: StorageLocation
    landing: StorageLocation
    archive: StorageLocation
    other_landings: tuple[StorageLocation, ...] = ()

    @property
    def features(self) -> StorageLocation:
        return self.root.child("features")

    @property
    def projections(self) -> StorageLocation:
        return self.root.child("projections")

    @property
    def rejects(self) -> StorageLocation:
        return self.root.child("rejects")

    @property
    def featurizers(self) -> StorageLocation:
        return self.root.child(FEATURIZERS)

    @property
    def pca_models(self) -> StorageLocation:
        return self.root.child("models/pca")

    @property
    def state(self) -> StorageLocation:
        return self.root.child("state")

    @property
    def batches(self) -> StorageLocation:
        return self.root.child("state/batches")

    @property
    def snapshots(self) -> StorageLocation:
        return self.root.child("state/snapshots")

    @property
    def reports(self) -> StorageLocation:
        return self.root.child("reports")

    @property
    def own_places(self) -> tuple[StorageLocation, ...]:
        """Where the service keeps what is its own, and no link in a landing may lead."""
        kept = ("features", "projections", "rejects", "models", "state", "reports")
        return (*map(self.root.child, kept), self.archive)

    @property
    def landings(self) -> tuple[StorageLocation, ...]:
        """Every landing that the home knows, today's first."""
        return (self.landing, *self.other_landings)

    def landing_named(self, name: str) -> StorageLocation:
        """The landing that plans and requests call by this name, where it lies today.

        Raises StateDamaged when that would be in another home: what is there is none of ours.
        """
        known = next((landing for landing in self.landings if landing.source == name), None)
        if known is not None:
            return known
        place = self.place_at(name)
        if other := home_around(place, self.root):
            raise StateDamaged(f"{name} is the landing of another home, {other}; nothing of it was touched.")
        return place

    def place_at(self, location: str) -> StorageLocation:
        """A place by its URI, reached the way this home's landing is reached."""
        return StorageLocation.at(location, self.landing.s3_endpoint, self.landing.s3_region)

    def location_of(self, place: StorageLocation) -> str:
        """Where a place lies: a path below the home, which holds when the home moves, or a URI."""
        if place.uri.startswith(f"{self.root.uri}/"):
            return place.uri.removeprefix(f"{self.root.uri}/")
        if place.is_local and self.root.is_local:
            directory, root = place.directory.resolve(), self.root.directory.resolve()
            if root in directory.parents:
                return directory.relative_to(root).as_posix()
        return place.uri

    def landing_of(self, source: str) -> tuple[StorageLocation, str] | None:
        """The landing, and the key below it, of what the tables call by this source; None below no known landing."""
        around = [landing for landing in self.landings if source.startswith(f"{landing.source}/")]
        landing = max(around, key=lambda landing: len(landing.source), default=None)
        return None if landing is None else (landing, source.removeprefix(f"{landing.source}/"))

    def source_at(self, uri: str) -> str:
        """What the tables call an object that lies at a URI today; a source is returned as it is."""
        for landing in self.landings:
            if uri.startswith(f"{landing.uri}/"):
                return landing.source_of(uri.removeprefix(f"{landing.uri}/"))
        return uri


def home_around(place: StorageLocation, root: StorageLocation) -> str | None:
    """The home, other than that below `root`, that a directory lies in; None for what is on S3."""
    if not place.is_local:
        return None
    directory = place.directory.resolve()
    if root.is_local and directory.is_relative_to(root.directory.resolve()):
        return None
    return next((str(parent) for parent in directory.parents if is_home(parent)), None)


def is_home(directory: Path) -> bool:
    """Whether a directory on disk is a home: each has a featurizer before anything else."""
    return (directory / FEATURIZERS).is_dir()


FEATURIZERS = "models/featurizer"
