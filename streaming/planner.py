"""The planner: it finds what to process, and writes each batch down as a durable plan."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from features.errors import InvalidSetting
from store.errors import FeaturizerConflict, StateDamaged
from store.home import Home
from store.models.pca_models import current_models, featurizers_in_use, versions_to_project
from store.models.registry import current_featurizer, known_recipe
from store.objects.document import Document
from store.objects.landing import LandedObject
from store.settings import Settings
from store.state.erasures import erasure_filter
from store.state.heartbeat import check_claim
from store.state.plans import Plan, Result, write_plan
from store.tables.handles import open_tables, unsettled_batches
from streaming.cleaning.cleaner import Cleaner
from streaming.discovery.arrivals import Backlog
from streaming.discovery.discovery import Discovery, UnsettledFiles
from streaming.discovery.queue import QueueStats
from streaming.discovery.retries import Retries
from streaming.discovery.snapshot import Snapshots, load_processed_index, outcome_of
from streaming.discovery.visibility import CaughtUp
from streaming.pacing import Pacer

ONLY_NEW_KEY = "only_new.json"


@dataclass(frozen=True)
class PlannerReport:
    """What the planner knows after a look.

    `passed_over` counts, by kind, what the last listing left out on purpose; `uncleared` photos have their rows and
    could not be cleared away; `to_copy` wait for their copy before that, and of those in `uncopied`, counted by reason,
    none can be made. Every photo that had settled in the landing before `caught_up_to` is planned, and
    committed by the time a listener gets the report; None while some wait. A drain that has caught up reports the
    `unsettled` files that it leaves to the next start.
    """

    backlog: Backlog
    caught_up_to: datetime | None = None
    queue: QueueStats | None = None
    passed_over: dict[str, int] = field(default_factory=dict)
    unsettled: UnsettledFiles | None = None
    uncleared: int = 0
    to_copy: int = 0
    uncopied: dict[str, int] = field(default_factory=dict)
    made_at: datetime = field(default_factory=lambda: datetime.now(UTC))


class Planner:
    """Writes the next plan when there is something to plan; `newest` is the number of the last plan to begin.

    It looks and plans in one thread; `committed` and `close` may be called in any. It begins after the last batch that
    all tables hold, first with the plans that are there already. `scratch` holds its index.
    """

    def __init__(
        self, home: Home, settings: Settings, drain: bool, nonce: str, cleaner: Cleaner, scratch: Path
    ) -> None:
        self._home = home
        self._key_pattern = settings.key_pattern_in_force
        self._nonce = nonce
        self._cleaner = cleaner
        self._copies = settings.keeps_copies
        self._max_files = settings.max_files
        self._pacer = Pacer(settings.max_files, settings.max_bytes)
        self._is_closed = False

        tables = open_tables(home)
        # A table behind the others is rolled forward from the result; without one (a lost state/) there is nothing
        # to roll forward, and whatever the table lacks is found again by the listing.
        self._unfinished = unsettled_batches(home, tables)
        self.newest = self._unfinished[0] - 1 if self._unfinished else tables.committed_to_any
        self._last = max([tables.committed_to_any, *self._unfinished])

        if settings.only_new and only_new_since(home) is None:
            if self._last:
                raise InvalidSetting(
                    f"{home.root.uri} has taken what was there before; --only-new works at a home's first start only."
                )
            _ONLY_NEW.write_once(home.state, {"since": datetime.now(UTC)})
        self._index = load_processed_index(home, scratch / "processed.sqlite")
        self._snapshots = Snapshots(home, self._index)
        self._discovery = Discovery(
            home,
            self._index,
            queue=settings.queue,
            backfill=settings.backfill,
            drain=drain,
            only_since=only_new_since(home),
            settle=settings.settle,
            clear_leftovers=cleaner.clear_leftovers,
        )
        self._retries = Retries(home, self._index)
        self._caught_up = CaughtUp(home)
        self._discovery.start()

    def next_batch(self) -> PlannerReport:
        """Look for work, and plan the next batch if there is any.

        Raises AnotherStreamRunning when another stream holds the home by now, or planned the same number first.
        """
        self._pacer.end()
        caught_up_to = None
        discovery = self._discovery
        if self._unfinished:
            self.newest = self._unfinished.pop(0)
        else:
            discovery.poll()
            self._retries.poll()
            most = self._max_files + 1
            waiting = self._retries.among(discovery.oldest(most), most)
            objects = self._without_erased(self._pacer.fill(waiting))
            if objects:
                self._plan(objects)
            elif not self._retries and (caught_up_to := discovery.caught_up_to) is not None:
                self._caught_up.remember(caught_up_to)
        return PlannerReport(
            discovery.backlog,
            caught_up_to,
            discovery.queue_stats,
            discovery.passed_over,
            discovery.unsettled if caught_up_to is not None else None,
            self._cleaner.uncleared,
            self._cleaner.to_copy,
            self._cleaner.uncopied,
        )

    def committed(self, plan: Plan, result: Result) -> None:
        """A batch has its rows in the tables. Raises what the last snapshot failed of."""
        outcome = outcome_of(self._home, plan, result)
        self._index.committed(plan.batch, outcome)
        self._snapshots.committed(outcome.photos + outcome.rejects)

    def close(self) -> None:
        """Plan and find nothing more; messages of the queue that are not settled go back to it."""
        self._is_closed = True
        self._discovery.close()

    def _plan(self, objects: tuple[LandedObject, ...]) -> None:
        featurizer = current_featurizer(self._home)
        if featurizer is None:
            raise StateDamaged(f"{self._home.root.uri} has no featurizer; run `fruits weights`.")
        if self._copies and known_recipe(self._home, featurizer).copy_px is None:
            raise FeaturizerConflict(
                f"Featurizer {featurizer} makes features from photos themselves, and the stream is to keep copies; "
                "start it with --new-featurizer, or without --copies."
            )
        now = datetime.now(UTC)
        current = current_models(self._home)
        featurizers = featurizers_in_use(self._home, featurizer, current)
        pca_versions = versions_to_project(self._home, featurizers, current)
        plan = Plan(
            batch=self._last + 1,
            nonce=self._nonce,
            planned_at=now,
            ingest_date=now.date(),
            landing=self._home.landing.source,
            key_pattern=self._key_pattern,
            featurizer=featurizer,
            objects=objects,
            pca_versions=pca_versions,
            retried=self._retries.rows_of(objects),
            served=current.serving if current.serving in pca_versions else None,
            copies=self._copies,
            others=featurizers[1:],
        )
        check_claim(self._home, plan.nonce)
        if self._is_closed:
            return
        write_plan(self._home, plan)
        self._discovery.planned(plan)
        self._retries.planned(plan)
        self.newest = self._last = plan.batch
        self._pacer.start(objects, self._discovery.backlog.files + len(self._retries))

    def _without_erased(self, objects: tuple[LandedObject, ...]) -> tuple[LandedObject, ...]:
        if not objects:
            return objects
        erasures = erasure_filter(self._home)
        erased = [landed for landed in objects if erasures.covers(self._home.landing, landed)]
        self._discovery.skip(erased)
        self._retries.skip(erased)
        return tuple(landed for landed in objects if landed not in erased)


class PlannerThread:
    """Runs a planner in a thread: it looks at each trigger, and plans no further while the newest plan has not begun.

    `publish` gets the number of each plan. After a failure it does nothing more.
    """

    def __init__(self, make_planner: Callable[[], Planner], publish: Callable[[int], None], trigger_s: float) -> None:
        self._make_planner = make_planner
        self._publish = publish
        self._trigger_s = trigger_s
        self._planner: Planner | None = None
        self._closing = threading.Event()
        self._may_go_on = threading.Event()
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)
        self.newest: int | None = None
        self.report: PlannerReport | None = None
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def go_on(self) -> None:
        """The newest plan has begun, and leaves cores idle soon."""
        self._may_go_on.set()

    def committed(self, plan: Plan, result: Result) -> None:
        """A batch, which was published before, has its rows in the tables."""
        assert self._planner is not None
        self._planner.committed(plan, result)

    def close(self, timeout_s: float) -> None:
        """Plan nothing more; a look that is under way is waited for, but not longer than `timeout_s`."""
        self._closing.set()
        self._may_go_on.set()
        self._thread.join(timeout_s)
        if self._planner is not None:
            self._planner.close()

    def _run(self) -> None:
        try:
            self._planner = planner = self._make_planner()
            newest = planner.newest
            while not self._closing.is_set():
                next_look_s = time.monotonic() + self._trigger_s
                report = planner.next_batch()
                if planner.newest != newest:
                    newest = planner.newest
                    self._may_go_on.clear()
                    self.newest = newest
                    self._publish(newest)
                self.report = report
                if self.newest is not None and not self._closing.is_set():
                    self._may_go_on.wait()
                self._closing.wait(max(0.0, next_look_s - time.monotonic()))
        except BaseException as error:
            # The stream looks for it, and stops.
            self.failure = error


def only_new_since(home: Home) -> datetime | None:
    """What arrived before this time is ignored; None when everything counts."""
    stored = _ONLY_NEW.read(home.state)
    return stored["since"] if stored else None


_ONLY_NEW = Document(dict[str, datetime], ONLY_NEW_KEY, remedy="restore it", indent=None)
