"""Where everything of one installation lives."""

from dataclasses import dataclass
from pathlib import Path

from store.errors import StateDamaged
from store.objects.location import StorageLocation

FEATURIZERS = "models/featurizer"


class _Below:
    """A location below a home's root."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __get__(self, home: "Home", _: "type[Home] | None" = None) -> StorageLocation:
        return home.root.child(self._path)


@dataclass(frozen=True)
class Home:
    """The locations below one root URI; the landing and the archive can be elsewhere.

    `other_landings` are those that the home knows beside today's: where photos landed before, and former names of a
    landing that has moved.
    """

    root: StorageLocation
    landing: StorageLocation
    archive: StorageLocation
    other_landings: tuple[StorageLocation, ...] = ()

    features = _Below("features")
    projections = _Below("projections")
    rejects = _Below("rejects")
    labels = _Below("labels")
    copies = _Below("copies")
    featurizers = _Below(FEATURIZERS)
    pca_models = _Below("models/pca")
    state = _Below("state")
    batches = _Below("state/batches")
    snapshots = _Below("state/snapshots")
    reports = _Below("reports")
    answers = _Below("answers")

    @property
    def own_locations(self) -> tuple[StorageLocation, ...]:
        """Where the service keeps its own objects; no link in a landing may lead there."""
        return (*self._tables, *map(self.root.child, ("models", "state", "reports", "answers")), self.archive)

    @property
    def record_locations(self) -> tuple[StorageLocation, ...]:
        """Where the service writes what it knows of photos: all but the photos themselves and the networks."""
        return (*self._tables, self.state, self.reports, self.pca_models, self.answers)

    @property
    def _tables(self) -> tuple[StorageLocation, ...]:
        return (self.features, self.projections, self.rejects, self.copies, self.labels)

    @property
    def landings(self) -> tuple[StorageLocation, ...]:
        """Every landing that the home knows, today's first."""
        return (self.landing, *self.other_landings)

    def landing_named(self, name: str) -> StorageLocation:
        """The landing of this name in plans and requests. Raises StateDamaged if it would lie in another home."""
        known = next((landing for landing in self.landings if landing.source == name), None)
        if known is not None:
            return known
        landing = self.location_at(name)
        if other := home_around(landing, self.root):
            raise StateDamaged(f"{name} is the landing of another home, {other}; nothing of it was touched.")
        return landing

    def location_at(self, uri: str) -> StorageLocation:
        """A location by its URI, with the endpoint and the region of this home's landing."""
        return StorageLocation.at(uri, self.landing.s3_endpoint, self.landing.s3_region)

    def path_or_uri(self, location: StorageLocation) -> str:
        """Where a location lies: a path below the home, which stays right when the home moves, or else a URI."""
        if location.uri.startswith(f"{self.root.uri}/"):
            return location.uri.removeprefix(f"{self.root.uri}/")
        if location.is_local and self.root.is_local:
            directory, root = location.directory.resolve(), self.root.directory.resolve()
            if root in directory.parents:
                return directory.relative_to(root).as_posix()
        return location.uri

    def landing_of(self, source: str) -> tuple[StorageLocation, str] | None:
        """The landing and the key of the object that has this source in the tables; None when no landing is known."""
        around = [landing for landing in self.landings if source.startswith(f"{landing.source}/")]
        landing = max(around, key=lambda landing: len(landing.source), default=None)
        return None if landing is None else (landing, source.removeprefix(f"{landing.source}/"))

    def source_at(self, uri: str) -> str:
        """The source, in the tables, of an object that lies at a URI today; a source is returned as it is."""
        for landing in self.landings:
            if uri.startswith(f"{landing.uri}/"):
                return landing.source_of(uri.removeprefix(f"{landing.uri}/"))
        return uri


def home_around(location: StorageLocation, root: StorageLocation) -> str | None:
    """The home, other than that below `root`, that a directory lies in; None for what is on S3."""
    if not location.is_local:
        return None
    directory = location.directory.resolve()
    if root.is_local and directory.is_relative_to(root.directory.resolve()):
        return None
    return next((str(parent) for parent in directory.parents if is_home(parent)), None)


def is_home(directory: Path) -> bool:
    """Whether a directory on disk is a home: each has a featurizer before anything else."""
    return (directory / FEATURIZERS).is_dir()
