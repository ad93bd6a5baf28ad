"""Give every photo features of each network in use, from its copy or its original, while the stream goes on."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

from deltalake import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark import SparkContext

from batch.refeaturize.report import write_report
from batch.refeaturize.selection import Share, files_of, photos_without, shares_of
from batch.refeaturize.task import Task, TaskMessage, run_tasks
from features.errors import InvalidWeights
from features.image import Limits
from features.task_errors import last_words
from store.errors import HomeInUse, JobFailed, StateDamaged
from store.home import Home
from store.models.pca_models import featurizers_in_use
from store.models.registry import FeaturizerMeta, current_featurizer, describe_featurizer, load_network
from store.state.erasures import check_no_erasure_started, read_erasures
from store.state.expired import first_kept_day
from store.state.lease import hold_lease
from store.state.plans import AddedFile
from store.state.refeaturized import BatchOfDay, forget_lost_photos, note_lost_photos
from store.tables.commits import MAINTENANCE, append_once
from store.tables.files import DataFile
from store.tables.handles import OpenTables, open_tables, unsettled_plans
from store.tables.lacking import REFEATURIZING, lacking, rows_of_networks
from store.tables.schemas import COPY_ROWS, FEATURE_ROWS

if TYPE_CHECKING:
    from pyspark import Broadcast

WORK = "fruits refeaturize"
# What one of the tasks at a time does in a transaction: 10 s from copies, a minute from photos of 12 megapixels.
PHOTOS_A_SLOT = 1000
# Of a cluster with dynamic allocation, whose queues bound what a job gets.
TASKS_ASKED_FOR = 64
# How long a batch that was planned without the network may take to be committed.
PATIENCE_S = 120.0
POLL_INTERVAL_S = 1.0


@dataclass(frozen=True)
class RefeaturizeOptions:
    """What a photo may cost, which days come first, and at which share of Spark's cores."""

    limits: Limits
    newest_first: bool = True
    share: float = 0.5
    patience_s: float = PATIENCE_S
    photos_a_slot: int = PHOTOS_A_SLOT


@dataclass(frozen=True)
class Refeaturization:
    """How many photos got features of one network, from which places, and how many could not be had, for what reason.

    Those that could not be had are those of all runs, `rows` and `places` are of this one.
    """

    featurizer: str
    rows: int
    days: int
    places: Mapping[str, int]
    lost: Mapping[str, int]


def featurizers_to_fill(home: Home) -> tuple[str, ...]:
    """The featurizers in use, the newest first; none before the home has one."""
    newest = current_featurizer(home)
    return () if newest is None else featurizers_in_use(home, newest)


def slots_of(spark: SparkContext, share: float) -> int:
    """How many tasks run at a time: that share of the cores, and one at least.

    A cluster that hands out cores as tasks ask for them begins with a few; there it is a share of what is asked for.
    """
    asks = spark.getConf().get("spark.dynamicAllocation.enabled", "false") == "true"
    return max(1, round((TASKS_ASKED_FOR if asks else spark.defaultParallelism) * share))


def refeaturize(
    spark: SparkContext,
    home: Home,
    options: RefeaturizeOptions,
    say: Callable[[str], None],
    on_progress: Callable[[int, int], None],
) -> list[Refeaturization]:
    """Append what photos lack of the featurizers in use, some batches of a day in each transaction.

    Rows keep all but the features: the batch and the day, too. `say` gets waits in words, `on_progress` photos done and
    photos in all. The lease is held for one transaction at a time, so that maintenance, an erasure and a refit come in
    between; photos may arrive meanwhile, of which the stream makes rows of all networks in use. What cannot be had is
    counted in a report, and tried again by the next run. Killed at any point, a replay does what is left; two at once
    take turns. Raises InvalidWeights when a network gives no finite numbers of a photo, HomeInUse, JobFailed,
    StateDamaged, StorageUnavailable.
    """
    return [
        _Filling(spark, home, describe_featurizer(home, id), options, say, on_progress).run()
        for id in featurizers_to_fill(home)
    ]


@dataclass
class _Filling:
    """Fills one featurizer: `rows` and `days` say what was appended."""

    spark: SparkContext
    home: Home
    meta: FeaturizerMeta
    options: RefeaturizeOptions
    say: Callable[[str], None]
    on_progress: Callable[[int, int], None]
    rows: int = 0
    days: set[date] = field(default_factory=set)
    places: Counter[str] = field(default_factory=Counter)
    network: "Broadcast[bytes] | None" = None
    # The logs are long beside a stream at work; a look at a table kept open reads what is new.
    tables: OpenTables = field(init=False)

    def __post_init__(self) -> None:
        self.tables = OpenTables(self.home)

    def run(self) -> Refeaturization:
        """Repeat until no committed batch lacks the featurizer: others are committed while this one works."""
        try:
            # What was looked for in vain is looked for once more in each run.
            self._fill(with_lost=True)
            _wait_for_plans(self.home, self.meta.id, self.say, self.options.patience_s)
            self._fill()
        finally:
            if self.network is not None:
                self.network.destroy()
        forget_lost_photos(self.home, self.meta.id, first_kept_day(self.home))
        lost = write_report(self.home, self.meta.id)
        return Refeaturization(self.meta.id, self.rows, len(self.days), self.places, lost)

    def _fill(self, with_lost: bool = False) -> None:
        before: dict[BatchOfDay, int] = {}
        while lacks := self._lacks(with_lost):
            if lacks == before:
                day, batch = next(iter(lacks))
                raise StateDamaged(
                    f"Batch {batch} of {day} has more rows of one network than it has photos; "
                    "`fruits status --verify` shows more. Restore the table features."
                )
            with_lost, before = False, lacks
            most_photos = slots_of(self.spark, self.options.share) * self.options.photos_a_slot
            done, total = 0, sum(lacks.values())
            self.on_progress(done, total)
            for share in shares_of(lacks, most_photos, self.options.newest_first):
                with hold_lease(self.home, WORK, self.say, gives_way=True) as check:
                    self._complete(share, check)
                done += share.photos
                self.on_progress(done, total)

    def _lacks(self, with_lost: bool) -> dict[BatchOfDay, int]:
        kept_from = first_kept_day(self.home)
        lacks = lacking(self.home, open_tables(self.home), self.meta.id, with_lost)
        return {(day, batch): photos for (day, batch), photos in lacks.items() if day >= kept_from}

    def _complete(self, share: Share, check: Callable[[], None]) -> None:
        """Make and commit what is still lacking of a share; others may have worked on the tables since it was cut."""
        erasures_begun = read_erasures(self.home).begun
        files = files_of(share, self.tables.look(FEATURE_ROWS)[0])
        seen = self._own_rows(share, files)
        rows = photos_without(self.home, self.meta.id, share.batches, files)
        if not rows.num_rows:
            note_lost_photos(self.home, self.meta.id, share.ingest_date, {batch: {} for batch in share.batches})
            return
        copies = tuple(file.path for file in files_of(share, self.tables.look(COPY_ROWS)[0]))
        slots = slots_of(self.spark, self.options.share)
        size = -(-rows.num_rows // slots)
        recipe, limits = self.meta.recipe, self.options.limits
        tasks = [
            Task(self.home, self.meta.id, recipe, limits, share.ingest_date, rows.slice(start, size), copies)
            for start in range(0, rows.num_rows, size)
        ]
        messages = self._run_tasks(share, tasks)
        tried: dict[int, Counter[str]] = defaultdict(Counter, {batch: Counter() for batch in share.batches})
        for message in messages:
            for batch, reasons in message.lost.items():
                tried[batch].update(reasons)
        check()
        note_lost_photos(self.home, self.meta.id, share.ingest_date, tried)
        adds = [message.added for message in messages if message.added is not None]
        if adds and self._commit(share, adds, seen, erasures_begun):
            self.rows += sum(added.rows for added in adds)
            self.days.add(share.ingest_date)
            for message in messages:
                self.places.update(message.places)

    def _run_tasks(self, share: Share, tasks: Sequence[Task]) -> list[TaskMessage]:
        if self.network is None:
            self.network = self.spark.broadcast(load_network(self.home, self.meta.id))
        network = self.network
        try:
            work = self.spark.parallelize(tasks, len(tasks)).mapPartitions(lambda part: run_tasks(part, network))
            messages: list[TaskMessage] = list(work.collect())
        except Py4JJavaError as error:
            raise JobFailed(
                f"Making features of {share.ingest_date} failed on every try: {last_words(error)}."
            ) from error
        return self._checked(messages)

    def _checked(self, messages: list[TaskMessage]) -> list[TaskMessage]:
        if source := next((message.not_finite for message in messages if message.not_finite), None):
            raise InvalidWeights(
                f"Featurizer {self.meta.id} ({self.meta.source}) gives a NaN or an infinity for {source}; nothing of "
                "it was written. Install another network: fruits weights NAME --new-featurizer.",
                photo=source,
            )
        return messages

    def _commit(self, share: Share, adds: Sequence[AddedFile], seen: Mapping[int, int], erasures_begun: int) -> bool:
        def is_done_or_gone(handle: DeltaTable) -> bool:
            # An erasure and retention commit to this table once they began: either this sees it, or the commit is
            # refused.
            check_no_erasure_started(self.home, erasures_begun)
            if share.ingest_date < first_kept_day(self.home):
                return True
            return self._own_rows(share, files_of(share, handle)) != seen

        metadata = {"fruits.featurizer": self.meta.id}
        return append_once(self.home, FEATURE_ROWS, REFEATURIZING, adds, metadata, is_done_or_gone, also=(MAINTENANCE,))

    def _own_rows(self, share: Share, files: Sequence[DataFile]) -> dict[int, int]:
        """How many rows of the featurizer each batch of the share has."""
        rows = rows_of_networks(self.home, files)
        return {batch: rows.get((share.ingest_date, batch), {}).get(self.meta.id, 0) for batch in share.batches}


def _wait_for_plans(home: Home, featurizer: str, say: Callable[[str], None], patience_s: float) -> None:
    """Return when every plan that lacks the featurizer is committed."""
    waited_for: list[int] = []
    while batches := [plan.batch for plan in unsettled_plans(home) if featurizer not in plan.featurizers]:
        if batches != waited_for:
            # The wait begins again whenever the stream has committed a batch.
            waited_for, deadline_s = batches, time.monotonic() + patience_s
            say(f"Waiting for batch {batches[0]}, planned before featurizer {featurizer}, to be committed …")
        if time.monotonic() > deadline_s:
            raise HomeInUse(
                f"Batch {batches[0]} was planned before featurizer {featurizer} and is not committed yet; "
                "let `fruits stream` finish it, and run `fruits refeaturize` again."
            )
        time.sleep(POLL_INTERVAL_S)
