"""The report's map: a sample of photos in PCA space, and which of them lie nearest to each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ops.query.query import run_query
from store.home import Home
from store.models.pca_models import PcaModel

MOST_PHOTOS_ON_MAP = 2500
# Six colours by four shapes.
MOST_COLOURED_LABELS = 24
MOST_LABELS = 1000
MOST_NEIGHBOURS = 5

_MOST_CHARACTERS = 160


@dataclass(frozen=True)
class MapPhoto:
    """One photo of the map; `label` is its place among the map's labels, None beyond the last of them."""

    x: float
    y: float
    label: int | None
    key: str
    arrived_at: datetime
    image_id: str
    source: str


@dataclass(frozen=True)
class PcaMap:
    """A sample of photos along the two leading components of the served version; labels with the photos they have.

    `neighbours` (n, k) are, for each photo of the sample, the places in the sample of those nearest to it by all
    `components`, nearest first.
    """

    of_photos: int
    of_labels: int
    shares: tuple[float, float]
    labels: list[tuple[str | None, int]]
    photos: list[MapPhoto]
    components: int
    neighbours: list[list[int]]


def photo_map(
    connection: duckdb.DuckDBPyConnection, home: Home, served: PcaModel | None, most_photos: int
) -> PcaMap | None:
    """The map of the view `seen_current_projections`; None without a version that has two components."""
    if served is None or served.meta.components < 2:
        return None
    connection.execute(
        "CREATE TEMP TABLE labels AS SELECT label, count(*) AS photos FROM seen_current_projections GROUP BY label "
        f"ORDER BY photos DESC, label NULLS LAST LIMIT {MOST_LABELS}"
    )
    labels = _tuples(connection, "SELECT label, photos FROM labels ORDER BY photos DESC, label NULLS LAST")
    place_of = {label: place for place, (label, _) in enumerate(labels)}
    photos = [
        MapPhoto(x, y, place_of.get(label), _key(home, source), arrived_at.replace(tzinfo=UTC), image_id, source)
        for x, y, label, source, arrived_at, image_id in _sample(connection, most_photos)
    ]
    shares = served.pca.explained_variance_ratio
    ((of_photos, of_labels),) = _tuples(
        connection, "SELECT count(*), count(DISTINCT label) FROM seen_current_projections"
    )
    return PcaMap(
        of_photos=of_photos,
        of_labels=of_labels,
        shares=(float(shares[0]), float(shares[1])),
        labels=[(None if label is None else shortened(label), count) for label, count in labels],
        photos=photos,
        components=served.meta.components,
        neighbours=nearest(_coordinates(connection, photos)) if len(photos) > 1 else [[] for _ in photos],
    )


def _tuples(connection: duckdb.DuckDBPyConnection, sql: str) -> list[tuple[Any, ...]]:
    return list(zip(*(column.to_pylist() for column in run_query(connection, sql).columns), strict=True))


def nearest(points: NDArray[np.float32], most: int = MOST_NEIGHBOURS) -> list[list[int]]:
    """For each of the points (n, d) the places of the `most` nearest others, nearest first; of equals the earlier."""
    # In float64 and about their mean, so that differences of long vectors do not drown.
    centred = points.astype(np.float64) - points.mean(axis=0)
    lengths = np.einsum("ij,ij->i", centred, centred)
    distances = lengths[:, None] + lengths[None, :] - 2 * centred @ centred.T
    np.fill_diagonal(distances, np.inf)
    kept = min(most, len(points) - 1)
    return [list(map(int, row)) for row in np.argsort(distances, axis=1, kind="stable")[:, :kept]]


def shortened(text: str) -> str:
    """A text of at most 160 characters that keeps its beginning and its end."""
    half = _MOST_CHARACTERS // 2
    return text if len(text) <= _MOST_CHARACTERS else f"{text[: half - 1]}…{text[-half:]}"


def _sample(connection: duckdb.DuckDBPyConnection, most_photos: int) -> list[tuple[Any, ...]]:
    """Photos by their hash, which is as good as chance, taken from the labels in turns so that rare ones are seen."""
    turns = _turns(connection, most_photos)
    return _tuples(
        connection,
        f"""
        WITH grouped AS (
            SELECT named.label IS NOT NULL AS is_named, named.label AS name, image_id,
                   {{x: pca[1], y: pca[2], label: seen.label, source: source, arrived_at: arrived_at, id: image_id}}
                       AS photo
            FROM seen_current_projections AS seen LEFT JOIN labels AS named ON named.label = seen.label
        ), first_of_each AS (
            SELECT is_named, name, unnest(arg_min(photo, image_id, {turns})) AS photo FROM grouped
            GROUP BY is_named, name
        ), in_turns AS (
            SELECT photo, row_number() OVER (PARTITION BY is_named, name ORDER BY photo.id, photo.source) AS turn
            FROM first_of_each
        )
        SELECT photo.x, photo.y, photo.label, photo.source, photo.arrived_at, photo.id FROM in_turns
        ORDER BY turn, photo.id, photo.source LIMIT {most_photos}
        """,
    )


def _turns(connection: duckdb.DuckDBPyConnection, most_photos: int) -> int:
    """How many turns it takes until the labels have given enough photos: no label need keep more at hand."""
    counts = np.array(
        _tuples(
            connection,
            "SELECT count(*) FROM seen_current_projections AS seen LEFT JOIN labels AS named "
            "ON named.label = seen.label GROUP BY named.label",
        )
    )
    turns = 1
    while turns < most_photos and np.minimum(counts, turns).sum() < most_photos:
        turns += 1
    return turns


def _coordinates(connection: duckdb.DuckDBPyConnection, photos: Sequence[MapPhoto]) -> NDArray[np.float32]:
    """The photos' coordinates along all components (n, k)."""
    sampled = pa.table(
        {
            "place": range(len(photos)),
            "image_id": [photo.image_id for photo in photos],
            "source": [photo.source for photo in photos],
        }
    )
    connection.register("sampled", sampled)
    rows = _tuples(
        connection,
        "SELECT any_value(pca) FROM seen_current_projections JOIN sampled USING (image_id, source) "
        "GROUP BY place ORDER BY place",
    )
    return np.array([pca for (pca,) in rows], np.float32)


def _key(home: Home, source: str) -> str:
    return shortened(source.removeprefix(f"{home.landing.source}/"))
