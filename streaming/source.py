"""The Spark source: it makes plans durable, and tells Spark only their numbers.

| option    | meaning                                             | default  |
| --------- | --------------------------------------------------- | -------- |
| `request` | a `PlanningRequest` as JSON: the home, caps, nonce  | required |

Spark runs the reader in a Python process of its own beside the driver. It yields one row a batch, `(batch long)`.
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pyspark.sql.datasource import DataSource, DataSourceStreamReader, InputPartition

from features.errors import FruitsError, InvalidSetting
from store.errors import StateDamaged
from store.home import Home
from store.models.pca_models import versions_to_project
from store.models.registry import current_featurizer
from store.objects.document import Document
from store.objects.landing import LandedObject
from store.state.erasures import erasure_filter
from store.state.heartbeat import check_claim
from store.state.plans import Plan, write_plan
from store.tables.handles import open_tables
from store.tables.unsettled import unsettled_batches
from streaming.cleaning import CleaningRule
from streaming.discovery.arrivals import NOTHING_WAITS
from streaming.discovery.discovery import Discovery, DiscoveryOptions
from streaming.discovery.retries import Retries
from streaming.discovery.snapshot import Snapshots, load_processed_index
from streaming.discovery.visibility import CaughtUp
from streaming.news import PlannerChannel, PlannerReport
from streaming.pacing import Caps, Pacer

SOURCE_NAME = "fruits_landing"
ONLY_NEW_KEY = "only_new.json"
HOLD_LOOK_S = 0.1


@dataclass(frozen=True)
class PlanningRequest:
    """What the planner needs; `folder` is where it and the service tell each other things."""

    home: Home
    caps: Caps
    key_pattern: str
    queue: str | None
    backfill: timedelta
    only_new: bool
    drain: bool
    settle: timedelta
    cleaning: CleaningRule
    nonce: str
    folder: Path

    @property
    def channel(self) -> PlannerChannel:
        return PlannerChannel(self.folder)


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
            news = PlannerReport(NOTHING_WAITS, error=type(error).__name__, message=str(error))
            self._request.channel.tell(news)
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
        self._channel = request.channel
        self._pacer = Pacer(request.caps)

        tables = open_tables(home)
        # A table behind the others is rolled forward from the result; without one (a lost state/) there is nothing
        # to roll forward, and whatever the table lacks is found again by the listing.
        self._unfinished = unsettled_batches(home, tables)
        self.started_after = self._unfinished[0] - 1 if self._unfinished else tables.committed_to_any
        self._position = self.started_after
        self._told: int | None = None
        self._last = max([tables.committed_to_any, *self._unfinished])

        if request.only_new:
            _pass_over_what_is_there(home, self._last)
        self._seen = load_processed_index(home, request.folder / "seen.sqlite")
        self._snapshots = Snapshots(home, self._seen)
        watched = DiscoveryOptions(request.queue, request.backfill, request.drain, only_new_since(home), request.settle)
        self._discovery = Discovery(home, self._seen, watched, request.cleaning, self.started_after)
        self._retries = Retries(home, self._seen)
        self._caught_up = CaughtUp(home)
        self._discovery.start()
        if request.queue is not None:
            threading.Thread(target=self._close_when_held, name="hold", daemon=True).start()

    def next_batch(self) -> int:
        """The number of the newest plan, after making one if anything waits.

        Raises AnotherStreamRunning when a rival holds the home by now, or planned the same number first.
        """
        self._pacer.ended()
        for batch, outcome in self._channel.take_committed():
            self._seen.committed(batch, outcome)
            self._snapshots.committed(outcome.photos + outcome.rejects)
        self._discovery.uncleared_by_the_cleaner(self._channel.take_left())
        if self._channel.is_held:
            return self._position
        caught_up_to = None
        if self._unfinished:
            self._told = self._position = self._unfinished.pop(0)
        else:
            self._discovery.look()
            self._retries.look()
            most = self._request.caps.max_files + 1
            waiting = self._retries.among(self._discovery.first(most), most)
            objects = self._not_erased(self._pacer.fill(waiting))
            if objects:
                self._plan(objects)
            elif not self._retries:
                caught_up_to = self._discovery.caught_up_to
        discovery = self._discovery
        if caught_up_to is not None:
            self._caught_up.remember(caught_up_to)
        self._channel.tell(
            PlannerReport(
                discovery.backlog,
                self._told,
                caught_up_to,
                discovery.queue_news,
                discovery.passed_over,
                discovery.left if caught_up_to is not None else None,
                discovery.uncleared,
            )
        )
        return self._position

    def _plan(self, objects: tuple[LandedObject, ...]) -> None:
        featurizer = current_featurizer(self._home)
        if featurizer is None:
            raise StateDamaged(f"{self._home.root.uri} has no featurizer; run `fruits weights`.")
        now = datetime.now(UTC)
        plan = Plan(
            batch=self._last + 1,
            nonce=self._request.nonce,
            planned_at=now,
            ingest_date=now.date(),
            landing=self._home.landing.source,
            key_pattern=self._request.key_pattern,
            featurizer=featurizer,
            objects=objects,
            pca_versions=versions_to_project(self._home, featurizer),
            retried=self._retries.rows_of(objects),
        )
        check_claim(self._home, plan.nonce)
        write_plan(self._home, plan)
        self._discovery.planned(plan)
        self._retries.planned(plan)
        self._last = self._told = self._position = plan.batch
        self._pacer.started(objects, self._discovery.backlog.files + len(self._retries))

    def _not_erased(self, objects: tuple[LandedObject, ...]) -> tuple[LandedObject, ...]:
        if not objects:
            return objects
        erased = erasure_filter(self._home)
        dropped = [landed for landed in objects if erased.covers(self._home.landing, landed)]
        self._discovery.skip(dropped)
        self._retries.passed_over(dropped)
        return tuple(landed for landed in objects if landed not in dropped)

    def _close_when_held(self) -> None:
        # Spark ends this process without a word.
        while not self._channel.is_held:
            time.sleep(HOLD_LOOK_S)
        self._discovery.close()
        self._channel.close()


def only_new_since(home: Home) -> datetime | None:
    """What arrived before this is passed over; None when everything counts."""
    stored = _ONLY_NEW.read(home.state)
    return stored["since"] if stored else None


def request_option(request: PlanningRequest) -> str:
    """The `request` option's value."""
    return _REQUEST.dump_json(request).decode()


def _pass_over_what_is_there(home: Home, last_batch: int) -> None:
    if only_new_since(home) is not None:
        return
    if last_batch:
        raise InvalidSetting(
            f"{home.root.uri} has taken what was there before; --only-new works at a home's first start only."
        )
    _ONLY_NEW.write_once(home.state, {"since": datetime.now(UTC)})


_REQUEST = TypeAdapter(PlanningRequest)
_ONLY_NEW = Document(dict[str, datetime], ONLY_NEW_KEY, remedy="restore it", indent=None)
