"""The report's map: a sample of photos in PCA space, and which of them lie nearest to each other."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeAlias

import duckdb
import numpy as np
from numpy.typing import NDArray

from ops.query.query import run_query
from ops.report.discriminants import discriminants
from store.home import Home
from store.models.pca_models import PcaModel

Row: TypeAlias = dict[str, Any]

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
    `components`, nearest first. `on_discriminants` are the photos' places along the two directions that tell the
    version's labels apart best, and `parted` how much of what parts the labels each direction shows; None where the
    version does not name three labels.
    """

    of_photos: int
    shares: tuple[float, float]
    labels: list[tuple[str | None, int]]
    photos: list[MapPhoto]
    components: int
    neighbours: list[list[int]]
    on_discriminants: list[tuple[float, float]] | None
    parted: tuple[float, float] | None


def photo_map(
    connection: duckdb.DuckDBPyConnection, home: Home, served: PcaModel | None, most_photos: int
) -> PcaMap | None:
    """The map of the view `seen_current_projections`; None without a version that has two components."""
    if served is None or served.meta.components < 2:
        return None
    connection.execute(
        "CREATE TEMP TABLE map_labels AS SELECT label, count(*) AS photos FROM seen_current_projections GROUP BY label "
        f"ORDER BY photos DESC, label NULLS LAST LIMIT {MOST_LABELS}"
    )
    labels = connection.sql("SELECT * FROM map_labels ORDER BY photos DESC, label NULLS LAST").fetchall()
    place_of = {label: place for place, (label, _) in enumerate(labels)}
    sample = _sample(connection, most_photos)
    (totals,) = query_rows(connection, "SELECT count(*) AS photos FROM seen_current_projections")
    shares = served.pca.explained_variance_ratio
    points = np.array([row["pca"] for row in sample], np.float32).reshape(-1, served.meta.components)
    parting = discriminants(served)
    return PcaMap(
        of_photos=totals["photos"],
        shares=(float(shares[0]), float(shares[1])),
        labels=[(None if label is None else shortened(label), count) for label, count in labels],
        photos=[
            MapPhoto(
                x=row["pca"][0],
                y=row["pca"][1],
                label=place_of.get(row["label"]),
                key=shortened(row["source"].removeprefix(f"{home.landing.source}/")),
                arrived_at=row["arrived_at"].replace(tzinfo=UTC),
                image_id=row["image_id"],
                source=row["source"],
            )
            for row in sample
        ],
        components=served.meta.components,
        neighbours=nearest(points) if sample else [],
        on_discriminants=[(x, y) for x, y in parting.places(points).tolist()] if parting and sample else None,
        parted=parting.shares if parting else None,
    )


def query_rows(connection: duckdb.DuckDBPyConnection, sql: str) -> list[Row]:
    """The rows of a query, as dictionaries by column. Raises InvalidQuery."""
    return list(run_query(connection, sql).to_pylist())


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


def _sample(connection: duckdb.DuckDBPyConnection, most_photos: int) -> list[Row]:
    """Photos by their hash, which is as good as chance, taken from the labels in turns so that rare ones are seen."""
    grouped = "seen_current_projections AS seen LEFT JOIN map_labels AS named ON named.label = seen.label"
    counts = [row["n"] for row in query_rows(connection, f"SELECT count(*) AS n FROM {grouped} GROUP BY named.label")]
    # After so many turns the labels have given enough photos: no more of any label are kept in memory.
    turns = next(
        (n for n in range(1, most_photos) if sum(min(n, count) for count in counts) >= most_photos), most_photos
    )
    return query_rows(
        connection,
        f"""
        WITH first_of_each AS (
            SELECT named.label AS name, unnest(arg_min(
                {{image_id: image_id, source: source, label: seen.label, arrived_at: arrived_at, pca: pca}},
                image_id, {turns})) AS photo
            FROM {grouped} GROUP BY named.label
        ), in_turns AS (
            SELECT photo, row_number() OVER (PARTITION BY name ORDER BY photo.image_id, photo.source) AS turn
            FROM first_of_each
        )
        SELECT unnest(photo) FROM in_turns ORDER BY turn, photo.image_id, photo.source LIMIT {most_photos}
        """,
    )
