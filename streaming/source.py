"""The Spark source: it makes plans durable, and tells Spark only their numbers.

| option    | meaning                                             | default  |
| --------- | --------------------------------------------------- | -------- |
| `request` | a `PlanningRequest` as JSON: the home, caps, nonce  | required |

Spark runs the reader in a Python process of its own beside the driver. It yields one row a batch, `(batch long)`.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition

from features.errors import FruitsError, StateDamaged
from features.home import Home
from features.landing import Landed
from features.pca_models import versions_to_project
from features.plan import Plan, planned_batches, write_plan
from features.registry import current_featurizer
from features.tables import TABLES, committed_batch, open_table
from streaming.discovery import Backlog, Discovery, planned_before
from streaming.pacing import Caps, Pacer

SOURCE_NAME = "fruits_landing"


@dataclass(frozen=True)
class PlanningRequest:
    """What the reader needs.

    `news_file` is where it tells the service of the backlog and of its own failure; once `hold_file` exists, it plans
    nothing more.
    """

    home: Home
    caps: Caps
    key_pattern: str
    drain: bool
    nonce: str
    news_file: str
    hold_file: str


@dataclass(frozen=True)
class News:
    """What the reader last told the service; `planned` is the number of the newest plan that Spark was told of.

    Every photo that had settled below the landing prefix before `caught_up_to` is planned; None while some wait.
    By the time a watcher hears of it, they are committed.
    """

    backlog: Backlog
    planned: int | None = None
    caught_up_to: datetime | None = None
    error: str | None = None
    message: str = ""


class LandingSource(DataSource):
    """Photos below a landing prefix, as numbered batches."""

    @classmethod
    def name(cls) -> str:
        return SOURCE_NAME

    def schema(self) -> str:
        return "batch long"

    def streamReader(self, schema: object) -> "LandingReader":  # noqa: N802 - the name is Spark's
        return LandingReader(_REQUEST.validate_json(self.options["request"]))


@dataclass(frozen=True)
class BatchMarker(InputPartition):
    """One planned batch."""

    batch: int


class LandingReader(DataSourceStreamReader):
    """Offsets are plan numbers: `{"batch": N}` means that plans up to N exist.

    Spark asks for the latest offset before it asks for the initial one, and only between batches. The checkpoint is
    never read back, so every start begins after the last batch that all tables hold.
    """

    def __init__(self, request: PlanningRequest) -> None:
        self._request = request
        self._planner: Planner | None = None

    def initialOffset(self) -> dict[str, int]:  # noqa: N802 - the name is Spark's
        return {"batch": self._planning().started_after}

    def latestOffset(self) -> dict[str, int]:  # noqa: N802 - the name is Spark's
        try:
            return {"batch": self._planning().next_batch()}
        except FruitsError as error:
            news = News(Backlog(0, 0, None), error=type(error).__name__, message=str(error))
            tell(self._request.news_file, news)
            raise

    def partitions(self, start: dict[str, int], end: dict[str, int]) -> Sequence[InputPartition]:
        return [BatchMarker(batch) for batch in range(start["batch"] + 1, end["batch"] + 1)]

    def read(self, partition: InputPartition) -> Iterator[tuple[Any, ...]]:
        assert isinstance(partition, BatchMarker)
        yield (partition.batch,)

    def _planning(self) -> "Planner":
        if self._planner is None:
            self._planner = Planner(self._request)
        return self._planner


class Planner:
    """Writes the next plan when there is something to plan."""

    def __init__(self, request: PlanningRequest) -> None:
        home = request.home
        self._request = request
        self._home = home
        self._pacer = Pacer(request.caps)
        self._discovery = Discovery(home.landing)

        existing = planned_batches(home)
        committed = [committed_batch(open_table(home, table)) for table in TABLES]
        # A table behind the others is rolled forward from the result; without one (a lost state/) there is nothing
        # to roll forward, and whatever the table lacks is found again by the listing.
        self._unfinished = [batch for batch in existing if batch > min(committed)]
        self.started_after = self._unfinished[0] - 1 if self._unfinished else max(committed)
        self._position = self.started_after
        self._told: int | None = None
        self._last = max([*committed, *existing])

        self._discovery.start(lambda listed: planned_before(home, listed, self._unfinished))

    def next_batch(self) -> int:
        """The number of the newest plan, after making one if anything waits.

        Raises AnotherStreamRunning when a rival planned the same number first.
        """
        self._pacer.ended()
        if Path(self._request.hold_file).exists():
            return self._position
        caught_up_to = None
        if self._unfinished:
            self._told = self._position = self._unfinished.pop(0)
        else:
            self._look()
            batch = self._pacer.fill(self._next_waiting())
            if batch:
                self._plan(batch)
            else:
                caught_up_to = self._discovery.listed_at
        tell(self._request.news_file, News(self._discovery.backlog, self._told, caught_up_to))
        return self._position

    def _look(self) -> None:
        if self._request.drain:
            return
        self._discovery.finish_listing(wait=False)
        self._discovery.begin_listing()
        # Under backlog the listing goes on beside the batch; only when nothing waits is it worth waiting for.
        self._discovery.finish_listing(wait=not self._discovery.waiting)

    def _next_waiting(self) -> list[Landed]:
        return list(itertools.islice(self._discovery.waiting, self._request.caps.max_files + 1))

    def _plan(self, objects: tuple[Landed, ...]) -> None:
        featurizer = current_featurizer(self._home)
        if featurizer is None:
            raise StateDamaged(f"{self._home.root.uri} has no featurizer; run `fruits weights`.")
        now = datetime.now(UTC)
        plan = Plan(
            batch=self._last + 1,
            nonce=self._request.nonce,
            planned_at=now,
            ingest_date=now.date(),
            landing=self._home.landing.uri,
            key_pattern=self._request.key_pattern,
            featurizer=featurizer,
            objects=objects,
            pca_versions=versions_to_project(self._home, featurizer),
        )
        write_plan(self._home, plan)
        self._discovery.planned(objects)
        self._last = self._told = self._position = plan.batch
        self._pacer.started(objects, len(self._discovery.waiting))
        if not self._request.drain:
            self._discovery.begin_listing()


def tell(news_file: str, news: News) -> None:
    """Replace what the service reads."""
    path = Path(news_file)
    fresh = path.with_suffix(".new")
    fresh.write_bytes(_NEWS.dump_json(news))
    fresh.replace(path)


def hear(news_file: str) -> News | None:
    """What the reader last told, or None before it told anything."""
    path = Path(news_file)
    return _NEWS.validate_json(path.read_bytes()) if path.exists() else None


def request_option(request: PlanningRequest) -> str:
    """The `request` option's value."""
    return _REQUEST.dump_json(request).decode()


_REQUEST = TypeAdapter(PlanningRequest)
_NEWS = TypeAdapter(News)
