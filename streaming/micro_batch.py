"""One micro-batch from its plan to its commit: the driver's side of the exactly-once protocol."""

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from py4j.protocol import Py4JJavaError
from pyspark import Broadcast, SparkContext

from features.errors import FruitsError
from features.image import Limits
from features.task_errors import carried_error, last_words
from store.errors import BatchFailed, StateDamaged, StorageRefused, StorageUnavailable
from store.home import Home
from store.models.pca_models import current_models, featurizers_in_use, versions_to_project
from store.models.registry import known_recipe, load_network
from store.objects.faults import RETRY_DEADLINE_S
from store.state.erasures import ErasureFilter, Erasures, read_erasures
from store.state.plans import (
    ATTEMPT_LIMIT,
    BatchCounters,
    Plan,
    Result,
    delete_from_plan,
    plan_key,
    read_plan,
    read_result,
    write_result,
)
from store.state.retries import retried_rows
from store.tables.commits import commit
from store.tables.handles import OpenTables, tables_of_batches
from store.tables.schemas import COPY_ROWS, FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS
from streaming.access_denied import AccessDeniedMonitor
from streaming.batches_in_flight import BatchesInHand
from streaming.executor.task import Task, TaskMessage, run_tasks
from streaming.pacing import split_into_tasks

# Estimated work that covers the time from one batch's leave to the next one's first task (Spark's trigger, the plan):
# 0.4 to 1 s was seen, and photos may take half of the estimate.
BEGIN_S = 2.5


@dataclass(frozen=True)
class BatchReport:
    """What a finished batch was: counts, PCA versions, and its duration by stage in seconds on the clock."""

    batch: int
    photos: int
    pca_versions: tuple[int, ...]
    rejects: dict[str, int]
    replayed: bool
    plan_s: float
    work_s: float
    commit_s: float
    counters: BatchCounters
    oldest_waited_s: float

    @property
    def total_s(self) -> float:
        return self.plan_s + self.work_s + self.commit_s

    @property
    def stages_s(self) -> dict[str, float]:
        """`plan`, `work`, `commit` on the clock; then, unless it was only rolled forward, the sums over its tasks."""
        clock_s = {"plan": self.plan_s, "work": self.work_s, "commit": self.commit_s}
        tasks = self.counters
        sums_s = {"fetch": tasks.fetch_s, "decode": tasks.decode_s, "infer": tasks.infer_s, "write": tasks.write_s}
        return clock_s if self.replayed else clock_s | sums_s


class MicroBatches:
    """Runs batches, also two at a time; keeps the networks that were broadcast.

    `before_last_commit` is called when all tables but `rejects` have a batch; a replay may call it again.
    """

    def __init__(
        self,
        spark: SparkContext,
        home: Home,
        limits: Limits,
        nonce: str,
        on_commit: Callable[[Plan, Result], None],
        on_stage: Callable[[int, str, float], None] = lambda batch, stage, seconds: None,
        patience_s: float = RETRY_DEADLINE_S,
        before_last_commit: Callable[[Plan, Result], None] = lambda plan, result: None,
    ) -> None:
        self._spark = spark
        self._home = home
        self._limits = limits
        self._tables = OpenTables(home)
        # No other process creates one: the stream holds the home.
        self._of_batches = tables_of_batches(home)
        self._nonce = nonce
        self._on_commit = on_commit
        self._on_stage = on_stage
        self._patience_s = patience_s
        self._before_last_commit = before_last_commit
        self._networks: dict[str, Broadcast[bytes]] = {}
        self._broadcasting = threading.Lock()
        self._access_denied = AccessDeniedMonitor(home)
        self.in_hand = BatchesInHand(spark)

    def run(self, batch: int, in_turn: Callable[[], None] = lambda: None) -> BatchReport:
        """Take one planned batch to its commit; `in_turn` returns when all batches before it are committed.

        Replay with a result only rolls forward: no task runs, and a table that holds the batch is skipped.
        Raises AnotherStreamRunning, BatchFailed when its tasks cannot be finished, StorageRefused, also when storage
        refused most of the last photos, StorageUnavailable, StateDamaged.
        """
        try:
            began_s = time.perf_counter()
            plan = read_plan(self._home, batch)
            if plan is None:
                raise self._plan_is_gone(batch)
            result = read_result(self._home, batch)
            replayed = result is not None
            plan_s = time.perf_counter() - began_s
            self._on_stage(batch, "plan", plan_s)
            if result is None:
                erasures = read_erasures(self._home)
                plan = self._without_erased(plan, erasures)
                self.in_hand.begin(batch, plan.objects)
                result = self._run_tasks(plan, erasures)
                write_result(self._home, result)
            work_s = time.perf_counter() - began_s - plan_s
            self._on_stage(batch, "work", work_s)
            in_turn()
            # Waiting for the batch before is no stage of this one.
            commit_began_s = time.perf_counter()
            self._check_no_copies_dropped(result)
            for table in self._of_batches:
                gone = retried_rows(self._home, plan) if table is REJECT_ROWS else frozenset()
                if table is REJECT_ROWS:
                    self._before_last_commit(plan, result)
                commit(self._home, table, batch, self._nonce, result.adds.get(table.name, ()), self._tables, gone)
            commit_s = time.perf_counter() - commit_began_s
            self._on_stage(batch, "commit", commit_s)
            self._on_commit(plan, result)
            projections = result.adds.get(PROJECTION_ROWS.name, ())
            return BatchReport(
                batch=batch,
                photos=result.counters.photos,
                pca_versions=tuple(sorted({int(file.partition["pca_version"]) for file in projections})),
                rejects=dict(result.counters.rejects),
                replayed=replayed,
                plan_s=plan_s,
                work_s=work_s,
                commit_s=commit_s,
                counters=result.counters,
                oldest_waited_s=_oldest_waited_s(plan),
            )
        finally:
            self.in_hand.end(batch)

    def nearly_done(self, batch: int) -> bool:
        """Whether the rest of a batch keeps the cores busy no longer than another batch needs to begin."""
        remaining_s = self.in_hand.remaining_s(batch)
        return remaining_s is not None and remaining_s <= BEGIN_S

    def give_up(self) -> None:
        """Stop the tasks that run for any batch; their plans stay."""
        self._spark.cancelAllJobs()

    def _run_tasks(self, plan: Plan, erasures: Erasures) -> Result:
        self._check_not_committed(plan)
        # The plan's networks and versions and those of now. A switch waits for every plan that it can see; a plan made
        # from the older pointer after that is begun later, too, and finds the new ones here.
        current = current_models(self._home)
        in_use = (*plan.featurizers, *featurizers_in_use(self._home, plan.featurizer, current))
        plan = replace(plan, others=tuple(dict.fromkeys(in_use))[1:])
        pca_versions = tuple(sorted({*plan.pca_versions, *versions_to_project(self._home, plan.featurizers, current)}))
        began_at, began_s = datetime.now(UTC), time.monotonic()
        landing = self._home.landing_named(plan.landing)
        retried = {row.key for row in plan.retried}
        recipes = {id: known_recipe(self._home, id) for id in plan.featurizers}
        tasks = [
            Task(
                home=self._home,
                landing=landing,
                plan=replace(plan, objects=objects, pca_versions=pca_versions, retried=()),
                limits=self._limits,
                retried=frozenset(landed.key for landed in objects if landed.key in retried),
                patience_s=self._patience_s,
                erasures=erasures.progress,
                recipes=recipes,
            )
            for objects in split_into_tasks(plan.objects, self._spark.defaultParallelism)
        ]
        messages = self._collect(plan.batch, tasks, self._broadcast_networks(plan.featurizers)) if tasks else []
        if datetime.now(UTC) - began_at > ATTEMPT_LIMIT:
            raise BatchFailed(f"Batch {plan.batch} took over {ATTEMPT_LIMIT}; its files may be swept. Start again.")
        wall_s, slots = time.monotonic() - began_s, self._spark.defaultParallelism
        counters = replace(_summed([message.counters for message in messages]), wall_s=wall_s, slots=slots)
        outcomes = counters.photos + sum(counters.rejects.values())
        if outcomes != len(plan.objects):
            raise StateDamaged(f"Batch {plan.batch} has {len(plan.objects)} objects but {outcomes} outcomes.")
        self._access_denied.check(plan, counters, next((m.refusal for m in messages if m.refusal), ""))
        adds = {
            table.name: tuple(added for message in messages for added in message.adds.get(table.name, ()))
            for table in self._of_batches
        }
        features = sum(added.rows for added in adds[FEATURE_ROWS.name])
        if features != counters.photos * len(plan.featurizers):
            raise StateDamaged(f"Batch {plan.batch} has {counters.photos} photos but {features} feature rows.")
        projections = sum(added.rows for added in adds[PROJECTION_ROWS.name])
        if projections != counters.photos * len(pca_versions):
            raise StateDamaged(f"Batch {plan.batch} has {counters.photos} photos but {projections} projections.")
        copies = sum(added.rows for added in adds.get(COPY_ROWS.name, ()))
        if copies != (counters.photos if plan.copies else 0):
            raise StateDamaged(f"Batch {plan.batch} has {counters.photos} photos but {copies} copies.")
        rejected_keys = tuple(key for message in messages for key in message.rejected_keys)
        return Result(plan.batch, self._nonce, datetime.now(UTC), adds, rejected_keys, counters)

    def _without_erased(self, plan: Plan, erasures: Erasures) -> Plan:
        # An erasure waits for every plan that it can see; a plan that is written after that is begun later, too.
        erased = ErasureFilter(erasures)
        landing = self._home.landing_named(plan.landing)
        if not any(erased.covers(landing, landed) for landed in plan.objects):
            return plan
        rest = delete_from_plan(self._home, plan.batch, lambda _, landed: erased.covers(landing, landed))
        if rest is None:
            # What was read before it went has objects that are to be forgotten.
            raise self._plan_is_gone(plan.batch)
        return rest

    def _plan_is_gone(self, batch: int) -> StateDamaged:
        return StateDamaged(f"{self._home.batches.uri_of(plan_key(batch))} is gone; start the stream again.")

    def _check_not_committed(self, plan: Plan) -> None:
        for table in self._of_batches:
            _, committed = self._tables.look(table)
            if committed >= plan.batch:
                raise StateDamaged(
                    f"The table {table.name} holds batch {plan.batch}, but the batch's result is gone. "
                    f"Delete {self._home.batches.uri_of(plan_key(plan.batch))} and start again: "
                    "what the tables lack is found by listing. Then run `fruits reproject`."
                )

    def _check_no_copies_dropped(self, result: Result) -> None:
        # The originals may be gone by the time that somebody misses them.
        if result.adds.get(COPY_ROWS.name) and COPY_ROWS not in self._of_batches:
            raise StateDamaged(
                f"The table {self._home.copies.uri} is gone, but batch {result.batch} has copies for it; restore it."
            )

    def _collect(self, batch: int, tasks: list[Task], networks: "dict[str, Broadcast[bytes]]") -> list[TaskMessage]:
        self._spark.setJobDescription(f"batch {batch}")
        counter = self.in_hand.counter(batch)
        work: Callable[[Any], Any] = lambda part: counter(run_tasks(part, networks))  # noqa: E731 - Spark pickles it
        try:
            return list(self._spark.parallelize(tasks, len(tasks)).mapPartitions(work).collect())
        except Py4JJavaError as error:
            raise _explained(batch, error) from error

    def _broadcast_networks(self, featurizers: tuple[str, ...]) -> "dict[str, Broadcast[bytes]]":
        with self._broadcasting:
            # Two batches run at a time; a network that neither of them needs comes back only after a switch.
            for old in self._networks.keys() - {*featurizers}:
                self._networks.pop(old).unpersist()
            for id in {*featurizers} - self._networks.keys():
                self._networks[id] = self._spark.broadcast(load_network(self._home, id))
            return {id: self._networks[id] for id in featurizers}


def _oldest_waited_s(plan: Plan) -> float:
    # What is tried again had its outcome long ago.
    retried = {row.key for row in plan.retried}
    now = datetime.now(UTC)
    return (now - min((one.visible_at for one in plan.objects if one.key not in retried), default=now)).total_seconds()


def _explained(batch: int, error: Py4JJavaError) -> FruitsError:
    ours, words = carried_error(error), last_words(error)
    photo = ours.photo if ours else None
    if isinstance(ours, StorageRefused):
        return StorageRefused(f"{words}. Batch {batch} waits for the next start.", photo)
    help = " Start again once storage answers." if isinstance(ours, StorageUnavailable) else ""
    return BatchFailed(f"A task of batch {batch} failed on every try: {words}.{help}", photo)


def _summed(parts: list[BatchCounters]) -> BatchCounters:
    totals: Counter[str] = Counter()
    rejects: Counter[str] = Counter()
    for part in parts:
        amounts = asdict(part)
        rejects.update(amounts.pop("rejects"))
        totals.update(amounts)
    return BatchCounters(**totals, rejects=dict(rejects))
