"""Homes that have what a report shows, without a stream, and a report opened in a browser."""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pyarrow.compute as pc

from features.image import Limits
from features.pca import Pca, project
from ops.query.query import connect
from store.home import Home
from store.models.pca_models import PcaMeta, PcaModel, begin_switch, finish_switch, publish_model
from store.state.plans import BatchCounters, Plan, Result, write_plan, write_result
from store.tables.commits import commit
from store.tables.files import vectors_column, write_file
from store.tables.handles import create_tables
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS
from tests.support.feature_rows import feature_vectors

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

MONDAY = datetime(2026, 10, 5, 8, tzinfo=UTC)
LIMITS = Limits(64 * 2**20, 100_000_000)


def add_day(home: Home, batch: int, labels: Sequence[str | None], at: datetime, rejects: int = 0) -> None:
    """A batch of one photo for each label, a second apart and each 2 s after its arrival, and some rejects."""
    create_tables(home)
    count, partition = len(labels), {"ingest_date": at.date().isoformat()}
    times = [at + timedelta(seconds=n) for n in range(count)]
    columns = {
        "image_id": [hashlib.sha256(f"{batch}/{n}".encode()).hexdigest() for n in range(count)],
        "source": [f"{home.landing.uri}/{label}/{batch}-{n}.jpg" for n, label in enumerate(labels)],
        "etag": ["e"] * count,
        "bytes": [1000] * count,
        "arrived_at": [time - timedelta(seconds=2) for time in times],
        "label": list(labels),
        "subject": [None] * count,
        "format": ["JPEG"] * count,
        "width": [640] * count,
        "height": [480] * count,
        "features": vectors_column(feature_vectors(count, batch)),
        "featurizer": ["abc"] * count,
        "batch": [batch] * count,
        "ingested_at": times,
    }
    refused = {
        "source": [f"{home.landing.uri}/x/{n}" for n in range(rejects)],
        "etag": ["e"] * rejects,
        "bytes": [0] * rejects,
        "arrived_at": [at] * rejects,
        "reason": ["empty"] * rejects,
        "detail": ["The file has no bytes."] * rejects,
        "batch": [batch] * rejects,
        "ingested_at": [at] * rejects,
    }
    commit(home, FEATURE_ROWS, batch, "a test", [write_file(home, FEATURE_ROWS, columns, partition)])
    commit(home, PROJECTION_ROWS, batch, "a test", [])
    commit(home, REJECT_ROWS, batch, "a test", [write_file(home, REJECT_ROWS, refused, partition)] if rejects else [])


def serve(home: Home, batch: int, pcas: Sequence[Pca]) -> None:
    """Publish a version for each PCA and serve the last, with the projections of all rows committed as a batch."""
    for version, pca in enumerate(pcas, 1):
        parent = version - 1 or None
        meta = PcaMeta(version, "abc", pca.rows, len(pca.components), 0.9, MONDAY, parent, None, f"test {version}")
        publish_model(home, PcaModel(meta, pca))
    served = pcas[-1]
    added = []
    kept = ("image_id", "source", "label", "subject", "arrived_at", "featurizer", "batch", "ingested_at")
    rows = connect(home).sql("SELECT * FROM features").to_arrow_table().combine_chunks()
    for day in sorted(set(rows["ingest_date"].to_pylist())):
        some = rows.filter(pc.field("ingest_date") == day).combine_chunks()
        seen = some["features"].combine_chunks().flatten().to_numpy().reshape(some.num_rows, -1)
        columns: dict[str, Any] = {name: some[name].combine_chunks() for name in kept}
        columns["pca"] = vectors_column(project(served.mean, served.components, seen))
        added.append(
            write_file(home, PROJECTION_ROWS, columns, {"pca_version": f"{len(pcas)}", "ingest_date": day.isoformat()})
        )
    commit(home, PROJECTION_ROWS, batch, "a test", added)
    finish_switch(home, begin_switch(home, len(pcas)), "abc")


def finish(home: Home, batch: int, at: datetime, counters: BatchCounters) -> None:
    write_plan(home, Plan(batch, "n", at, at.date(), home.landing.uri, "x", "abc", ()))
    write_result(home, Result(batch, "n", at, {}, (), counters))


@contextmanager
def opened(browser: "Browser", uri: str, **context: Any) -> "Iterator[Page]":
    """The page, in a context of its own; whatever it fetches, says on the console or asks for fails the test."""
    own_context = browser.new_context(**context)
    page = own_context.new_page()
    troubles: list[str] = []
    page.on("request", lambda request: troubles.append(request.url) if request.url != uri else None)
    page.on("console", lambda message: troubles.append(message.text))
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
    page.goto(uri)
    try:
        yield page
        assert page.evaluate("window.ran") is None
        assert troubles == []
    finally:
        own_context.close()
