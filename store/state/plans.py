"""What a batch is (its plan) and its outcome (its result): two documents, each written once."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta

from store.errors import AnotherStreamRunning
from store.home import Home
from store.objects.document import Document
from store.objects.landing import LandedObject
from store.objects.operations import delete_all, keys_below, old_keys

# An attempt at a batch gives up after this, and until twice as long its plan and its result stay: whoever was paused
# meanwhile finds them, and is refused.
ATTEMPT_LIMIT = timedelta(hours=12)

_NAME = re.compile(r"(\d{12,})\.(plan|result)\.json")


@dataclass(frozen=True, slots=True)
class Retried:
    """A reject row whose object is tried once more: the object's key, and the batch and the day of the row.

    `key` is None when the object was erased afterwards; the row still counts as deleted.
    """

    key: str | None
    batch: int
    ingest_date: date


@dataclass(frozen=True)
class Plan:
    """What batch `batch` is: the objects, and everything their outcome depends on.

    `featurizer` is the home's newest; each photo has a row of it, and one of each of the `others` in use.
    `served` is the version whose names are the answers to the app, one of `pca_versions`. With `copies` each photo has
    its copy in the table of that name; its size is the newest featurizer's.

    Objects that were rejected before have the size, the etag and the time of arrival they had then; `retried` names
    their reject rows, which the batch's commit deletes. One object can have several.
    """

    batch: int
    nonce: str
    planned_at: datetime
    ingest_date: date
    landing: str
    key_pattern: str
    featurizer: str
    objects: tuple[LandedObject, ...]
    pca_versions: tuple[int, ...] = ()
    retried: tuple[Retried, ...] = ()
    served: int | None = None
    copies: bool = False
    others: tuple[str, ...] = ()

    @property
    def featurizers(self) -> tuple[str, ...]:
        """All that make rows of this batch's photos."""
        return (self.featurizer, *self.others)


@dataclass(frozen=True)
class AddedFile:
    """One parquet file of one table: path below the table, partition values, and Delta's statistics as JSON."""

    path: str
    size_bytes: int
    rows: int
    partition: Mapping[str, str]
    statistics: str


@dataclass(frozen=True)
class BatchCounters:
    """What a batch counted; seconds are summed over tasks, except `wall_s`.

    `refused` are the rejects that storage refused or failed to read; a key with a '.' or '..' segment is none of them.
    `slots` is how many tasks could run at once, 0 where a result does not say it.
    """

    photos: int = 0
    rejects: Mapping[str, int] = field(default_factory=dict)
    refused: int = 0
    landed_bytes: int = 0
    fetch_s: float = 0.0
    decode_s: float = 0.0
    infer_s: float = 0.0
    write_s: float = 0.0
    wall_s: float = 0.0
    slots: int = 0


@dataclass(frozen=True)
class Result:
    """The outcome of batch `batch`: the files that each table gains, by table name. It is the commit point."""

    batch: int
    nonce: str
    finished_at: datetime
    adds: Mapping[str, tuple[AddedFile, ...]]
    rejected_keys: tuple[str, ...]
    counters: BatchCounters


_REMEDY = "restore it or delete it"
_PLAN = Document(Plan, "{:012d}.plan.json", _REMEDY)
_RESULT = Document(Result, "{:012d}.result.json", _REMEDY)


def write_plan(home: Home, plan: Plan) -> None:
    """Make a plan durable, once. Its nonce identifies our own write when only the answer to it was lost.

    Raises AnotherStreamRunning when another stream has planned this batch.
    """
    _check_is_ours(home, plan, _PLAN.write_once(home.batches, plan, plan.batch), plan_key(plan.batch))


def write_result(home: Home, result: Result) -> None:
    """Commit a batch's outcome, once. Raises AnotherStreamRunning when another stream has finished this batch."""
    stored = _RESULT.write_once(home.batches, result, result.batch)
    _check_is_ours(home, result, stored, _RESULT.key(result.batch))


def read_plan(home: Home, batch: int) -> Plan | None:
    """The plan of a batch, or None when there is none. Raises StateDamaged, StorageUnavailable."""
    return _PLAN.read(home.batches, batch)


def read_result(home: Home, batch: int) -> Result | None:
    """The result of a batch, or None while it has none. Raises StateDamaged, StorageUnavailable."""
    return _RESULT.read(home.batches, batch)


def read_plans(home: Home, after: int = 0) -> Iterator[Plan]:
    """The plans of all batches beyond `after`, ascending, each read when it is needed."""
    return (plan for batch in planned_batches(home, after) if (plan := read_plan(home, batch)) is not None)


def read_results(home: Home, after: int = 0) -> Iterator[Result]:
    """The results of all planned batches beyond `after` that have one, ascending, each read when it is needed."""
    return (result for batch in planned_batches(home, after) if (result := read_result(home, batch)) is not None)


def delete_from_plan(
    home: Home, batch: int, is_deleted: Callable[[Plan, LandedObject], bool], committed: bool = False
) -> Plan | None:
    """Write a plan again without some objects; returns the plan that is stored then, or None when there is none.

    The reject rows of objects that it tried again stay, unless the plan is `committed`: then they are deleted already,
    and are counted. Two writers at once do no harm, because each only deletes. Replay changes nothing.
    Raises StateDamaged, StorageUnavailable.
    """

    def without(plan: Plan) -> Plan:
        objects = tuple(landed for landed in plan.objects if not is_deleted(plan, landed))
        keys = {landed.key for landed in objects}
        retried = (row if row.key in keys else replace(row, key=None) for row in plan.retried)
        return replace(plan, objects=objects, retried=tuple(row for row in retried if committed or row.key is not None))

    return _PLAN.change_existing(home.batches, without, batch)


def delete_from_result(home: Home, batch: int, keys: Collection[str]) -> Result | None:
    """Write a result again without the names of some rejected objects, as `delete_from_plan` does; its counts stay."""

    def without(result: Result) -> Result:
        return replace(result, rejected_keys=tuple(key for key in result.rejected_keys if key not in keys))

    return _RESULT.change_existing(home.batches, without, batch)


def planned_batches(home: Home, after: int = 0) -> list[int]:
    """The numbers of the batches beyond `after` that have a plan, ascending; only their names are listed."""
    names = (_NAME.fullmatch(key) for key in keys_below(home.batches, after=f"{after + 1:012d}"))
    return sorted(int(name[1]) for name in names if name and name[2] == "plan")


def delete_old_batches(home: Home, through: int) -> int:
    """Delete old plans and results up to a batch; returns how many. Replay deletes what is left."""
    names = (_NAME.fullmatch(key) for key in old_keys(home.batches, 2 * ATTEMPT_LIMIT))
    return delete_all(home.batches, (name[0] for name in names if name and int(name[1]) <= through))


def plan_key(batch: int) -> str:
    """The name of a batch's plan below the batches; names sort as the numbers do."""
    return _PLAN.key(batch)


def _check_is_ours(home: Home, ours: Plan | Result, stored: Plan | Result, key: str) -> None:
    if stored.nonce != ours.nonce:
        raise AnotherStreamRunning(
            f"Another stream works on this home: it wrote {home.batches.uri_of(key)} first. "
            "Stop one of the two; nothing was lost or doubled."
        )
