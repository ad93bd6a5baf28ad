"""Copies for photos that have their rows and none: of older rules, or of batches that kept no copies."""

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime

from deltalake import DeltaTable
from py4j.protocol import Py4JJavaError
from pyspark import SparkContext

from features.featurizer import Recipe
from features.rejects import Reason
from features.task_errors import carried_error, last_words
from store.errors import FeaturizerConflict, HomeInUse, JobFailed, StateDamaged, StorageRefused
from store.home import Home
from store.models.registry import current_featurizer, describe_featurizer
from store.objects.landing import LandedObject
from store.objects.location import StorageLocation
from store.objects.operations import delete_all
from store.settings import Settings
from store.state.erasures import check_no_erasure_started, check_no_erasure_unfinished
from store.state.expired import first_copied_day
from store.state.heartbeat import check_claim
from store.state.plans import ATTEMPT_LIMIT
from store.tables.commits import append_once
from store.tables.copies import COPYING, PhotoRow, copied_among, rows_of_photos
from store.tables.schemas import COPY_ROWS
from streaming.discovery.processed_index import identity
from streaming.executor.copying import CopyMessage, CopyTask, UncopiedPhoto, run_copy_tasks
from streaming.pacing import estimated_work_s

# Beyond these no more are held: a later listing shows them again.
MOST_HELD = 100_000
# Beyond these the oldest are tried again before their time.
MOST_STUCK = 500_000
# How long a batch that comes meanwhile waits for the cores, by estimate.
CHUNK_S = 4.0
# For so many at a time the tables are looked at.
LOOKED_UP_AT_ONCE = 2_000
# A photo of which no copy could be made is left for so long.
LEFT_FOR_S = 3600.0
# Its day is one of those whose copies are deleted because of their age.
TOO_OLD = "too_old"

_LOOK_S = 0.1
_GONE = (str(Reason.MISSING), str(Reason.REPLACED))


class LeftoverCopies:
    """Writes copies of photos that a listing shows, that have their rows and no copy; in a thread of its own.

    It works in chunks of a few seconds, and only while `is_busy()` is false: new photos come first. Each chunk is one
    transaction, with the batches and the days of the photos' rows. Killed anywhere, the next start finds by a listing
    what lacks its copy. `on_copied` gets photos whose copies are committed. One of which no copy can be made stays:
    `stuck` counts them.
    """

    def __init__(
        self,
        spark: SparkContext,
        home: Home,
        settings: Settings,
        nonce: str,
        is_busy: Callable[[], bool],
        on_copied: Callable[[StorageLocation, Sequence[LandedObject]], None],
    ) -> None:
        self._spark = spark
        self._home = home
        self._limits = settings.limits
        self._patience_s = settings.storage_patience.total_seconds()
        self._nonce = nonce
        self._is_busy = is_busy
        self._on_copied = on_copied
        self._waiting: dict[bytes, LandedObject] = {}
        self._in_hand: dict[bytes, LandedObject] = {}
        self._stuck: dict[bytes, tuple[str, float]] = {}
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="copies", daemon=True)
        self.failure: BaseException | None = None

    def start(self) -> None:
        self._thread.start()

    def unknown(self, landed: Iterable[LandedObject]) -> list[LandedObject]:
        """Those that neither wait for their copy nor were given up within the hour."""
        with self._changed:
            return [one for one in landed if not self._knows(identity(self._home.landing, one))]

    def add(self, landed: Iterable[LandedObject]) -> None:
        """A listing shows these, which are processed and have no copy."""
        with self._changed:
            for one in landed:
                key = identity(self._home.landing, one)
                if not self._knows(key) and len(self._waiting) < MOST_HELD:
                    self._stuck.pop(key, None)
                    self._waiting[key] = one
            self._changed.notify_all()

    @property
    def waiting(self) -> int:
        """How many wait for their copy, as far as they are held."""
        with self._changed:
            return len(self._waiting) + len(self._in_hand)

    @property
    def stuck(self) -> dict[str, int]:
        """How many photos stay because no copy can be made of them, by reason."""
        with self._changed:
            return dict(Counter(reason for reason, _ in self._stuck.values()))

    def close(self) -> None:
        """Finish the chunk in hand, and end; the next start does the rest."""
        self._closed.set()
        with self._changed:
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _knows(self, key: bytes) -> bool:
        _, since_s = self._stuck.get(key, ("", float("-inf")))
        return key in self._waiting or key in self._in_hand or time.monotonic() - since_s < LEFT_FOR_S

    def _run(self) -> None:
        try:
            while some := self._next():
                try:
                    self._copy(some)
                except HomeInUse:
                    # An erasure is at work: a later listing shows again what it leaves.
                    with self._changed:
                        self._waiting.clear()
                finally:
                    with self._changed:
                        self._in_hand = {}
        except BaseException as error:
            # The stream looks for it, and stops.
            self.failure = error

    def _next(self) -> list[LandedObject]:
        with self._changed:
            while not (self._waiting or self._closed.is_set()):
                self._changed.wait()
            if self._closed.is_set():
                return []
            keys = list(self._waiting)[:LOOKED_UP_AT_ONCE]
            self._in_hand = {key: self._waiting.pop(key) for key in keys}
            return list(self._in_hand.values())

    def _copy(self, some: Sequence[LandedObject]) -> None:
        """Copy these, chunk by chunk. Raises HomeInUse while an erasure is at work, and what stops the stream."""
        if not self._may_go_on():
            return
        begun, landing, recipe = check_no_erasure_unfinished(self._home), self._home.landing, self._recipe()
        for chunk in _chunks(self._uncopied(some), self._spark.defaultParallelism):
            if not self._may_go_on():
                return
            began_at = datetime.now(UTC)
            messages = self._collect(
                [CopyTask(self._home, landing, part, self._limits, recipe, self._patience_s) for part in chunk]
            )
            if datetime.now(UTC) - began_at > ATTEMPT_LIMIT:
                raise JobFailed(f"Copying photos took over {ATTEMPT_LIMIT}; its files may be swept. Start again.")
            failed = {landed: reason for message in messages for landed, reason in message.failed.items()}
            objects = [photo.landed for part in chunk for photo in part]
            copied = [landed for landed in objects if landed not in failed]
            # What is gone meanwhile needs no copy.
            self._note_stuck({landed: reason for landed, reason in failed.items() if reason not in _GONE})
            is_ours = self._commit(messages, begun) if copied else True
            if is_ours:
                self._on_copied(landing, copied)
            with self._changed:
                for landed in objects:
                    self._in_hand.pop(identity(landing, landed), None)
            if not is_ours:
                # Its answer was lost, or another stream was first: the tables tell which of them have a copy.
                self.add(copied)

    def _may_go_on(self) -> bool:
        while self._is_busy() and not self._closed.is_set():
            self._closed.wait(_LOOK_S)
        return not self._closed.is_set()

    def _recipe(self) -> Recipe:
        featurizer = current_featurizer(self._home)
        if featurizer is None:
            raise StateDamaged(f"{self._home.root.uri} has no featurizer; run `fruits weights`.")
        recipe = describe_featurizer(self._home, featurizer).recipe
        if recipe.copy_px is None:
            raise FeaturizerConflict(
                f"Featurizer {featurizer} makes features from photos themselves, and the stream is to keep copies; "
                "start it with --new-featurizer, or with --clean keep."
            )
        return recipe

    def _uncopied(self, some: Sequence[LandedObject]) -> list[UncopiedPhoto]:
        """Those that lack a copy; the others are handed on or, without a row of a committed batch, left."""
        landing = self._home.landing
        found = rows_of_photos(self._home, {(landing.source_of(one.key), one.etag): one.arrived_at for one in some})
        first_day = first_copied_day(self._home)
        rows_of: defaultdict[tuple[str, str], list[PhotoRow]] = defaultdict(list)
        for row in found.rows:
            rows_of[row.source, row.etag].append(row)
        lacking: list[UncopiedPhoto] = []
        copied: list[LandedObject] = []
        too_old: list[LandedObject] = []
        for landed in some:
            rows = rows_of[landing.source_of(landed.key), landed.etag]
            without = tuple(row for row in rows if row not in found.copied and row.ingest_date >= first_day)
            if without:
                lacking.append(UncopiedPhoto(landed, without))
            elif any(row in found.copied for row in rows):
                copied.append(landed)
            elif rows:
                too_old.append(landed)
        self._note_stuck(dict.fromkeys(too_old, TOO_OLD))
        self._on_copied(landing, copied)
        # Files hold one day each.
        return sorted(lacking, key=lambda photo: (photo.rows[0].ingest_date, photo.rows[0].batch), reverse=True)

    def _note_stuck(self, reasons: Mapping[LandedObject, str]) -> None:
        with self._changed:
            now_s = time.monotonic()
            for landed, reason in reasons.items():
                self._stuck[identity(self._home.landing, landed)] = reason, now_s
            for key in list(self._stuck)[: max(0, len(self._stuck) - MOST_STUCK)]:
                del self._stuck[key]

    def _collect(self, tasks: Sequence[CopyTask]) -> list[CopyMessage]:
        self._spark.setJobDescription("copies of older photos")
        try:
            return list(self._spark.parallelize(tasks, len(tasks)).mapPartitions(run_copy_tasks).collect())
        except Py4JJavaError as error:
            ours, words = carried_error(error), last_words(error)
            if isinstance(ours, StorageRefused):
                raise StorageRefused(f"{words}. Older photos wait for their copies.", ours.photo) from error
            raise JobFailed(f"Copying older photos failed on every try: {words}. Start again.") from error

    def _commit(self, messages: Sequence[CopyMessage], begun: int) -> bool:
        """Append what the tasks wrote in one transaction; returns whether it was appended now."""
        adds = [added for message in messages for added in message.adds]
        rows = [row for message in messages for row in message.rows]
        if sum(added.rows for added in adds) != len(rows):
            raise StateDamaged(f"{len(rows)} copies of older photos were made, but files hold another number of them.")

        def is_there(copies: DeltaTable) -> bool:
            if copied_among(copies, rows):
                return True
            # An erasure commits to this table once it began: either this sees it, or the commit is refused.
            check_no_erasure_started(self._home, begun)
            return False

        check_claim(self._home, self._nonce)
        try:
            check_no_erasure_started(self._home, begun)
        except HomeInUse:
            delete_all(self._home.copies, [added.path for added in adds])
            raise
        return append_once(self._home, COPY_ROWS, COPYING, adds, {}, is_there)


def _chunks(photos: Sequence[UncopiedPhoto], slots: int) -> Iterator[list[tuple[UncopiedPhoto, ...]]]:
    """Photos in their order, in chunks of a part for each slot, which keep all slots busy for `CHUNK_S` at most."""
    parts: list[tuple[UncopiedPhoto, ...]] = []
    part: list[UncopiedPhoto] = []
    part_s = 0.0
    for photo in photos:
        part_s += estimated_work_s(photo.landed)
        if part and part_s > CHUNK_S:
            parts.append(tuple(part))
            part, part_s = [], estimated_work_s(photo.landed)
            if len(parts) == slots:
                yield parts
                parts = []
        part.append(photo)
    if part:
        yield [*parts, tuple(part)]
