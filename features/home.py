"""Where everything of one installation lives."""

from dataclasses import dataclass

from features.objects import Place


@dataclass(frozen=True)
class Home:
    """The places below one root URI; the landing and the archive can be elsewhere."""

    root: Place
    landing: Place
    archive: Place

    @property
    def features(self) -> Place:
        return self.root.child("features")

    @property
    def projections(self) -> Place:
        return self.root.child("projections")

    @property
    def rejects(self) -> Place:
        return self.root.child("rejects")

    @property
    def featurizers(self) -> Place:
        return self.root.child("models/featurizer")

    @property
    def pca_models(self) -> Place:
        return self.root.child("models/pca")

    @property
    def state(self) -> Place:
        return self.root.child("state")

    @property
    def batches(self) -> Place:
        return self.root.child("state/batches")

    @property
    def snapshots(self) -> Place:
        return self.root.child("state/snapshots")

    @property
    def reports(self) -> Place:
        return self.root.child("reports")

    def landing_at(self, uri: str) -> Place:
        """The landing prefix a plan was made for, reached the way this home is reached."""
        return Place.at(uri, self.landing.s3_endpoint, self.landing.s3_region)
