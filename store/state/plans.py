"""What a batch is (its plan) and what became of it (its result): two write-once objects each."""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from store.errors import AnotherStreamRunning, StateDamaged
from store.home import Home
from store.objects.landing import LandedObject
from store.objects.location import StorageLocation
from store.objects.operations import change, delete_all, keys_below, old_keys, read_if_exists, write_once

# An attempt at a batch gives up after this, and until twice as long its plan and its result stay: whoever was paused
# meanwhile finds them, and is refused.
ATTEMPT_LIMIT = timedelta(hours=12)

_NAME = re.compile(r"(\d{12,})\.(plan|result)\.json")


@dataclass(frozen=True, slots=True)
class Retried:
    """A reject row whose object is tried once more: the object's key, and the batch and the day of the row.

    Without a key the object was erased afterwards; the row still counts as taken away.
    """

    key: str | None
    batch: int
    ingest_date: date


@dataclass(frozen=True)
class Plan:
    """What batch `batch` is: the objects, and everything their outcome depends on.

    Objects that were rejected before are among them with the size, the etag and the time of arrival they had; `retried`
    names their reject rows, which the batch's commit takes away. One object can have several.
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

    `refused` are the rejects that storage refused or failed to hand out; a key with a '.' or '..' segment is none.
    `slots` is how many tasks could run at once, 0 where a result does not tell.
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
    """What batch `batch` became: the files each table gains, by table name. Its existence is the commit point."""

    batch: int
    nonce: str
    finished_at: datetime
    adds: Mapping[str, tuple[AddedFile, ...]]
    rejected_keys: tuple[str, ...]
    counters: BatchCounters


def write_plan(home: Home, plan: Plan) -> None:
    """Make a plan durable, once.

    Raises AnotherStreamRunning when another stream has planned this batch; a write that landed though its answer was
    lost is recognised by its nonce.
    """
    _write(home.batches, plan_key(plan.batch), plan, _PLAN)


def write_result(home: Home, result: Result) -> None:
    """Commit a batch's outcome, once. Raises AnotherStreamRunning when another stream has finished this batch."""
    _write(home.batches, result_key(result.batch), result, _RESULT)


def read_plan(home: Home, batch: int) -> Plan | None:
    """The plan of a batch, or None when there is none."""
    return _read(home.batches, plan_key(batch), _PLAN)


def read_result(home: Home, batch: int) -> Result | None:
    """The result of a batch, or None while it has none."""
    return _read(home.batches, result_key(batch), _RESULT)


def drop_from_plan(
    home: Home, batch: int, wanted: Callable[[Plan, LandedObject], bool], committed: bool = False
) -> Plan | None:
    """Write a plan anew without the wanted objects; returns the plan that stands then, or None when there is none.

    The reject rows of objects that it tried again stay then, unless it is `committed`: gone they are, and are counted.
    It only ever takes objects away from what stands, so it does no harm who else does the same. Replay changes nothing.
    Raises StateDamaged, StorageUnavailable.
    """

    def without(plan: Plan) -> Plan:
        objects = tuple(landed for landed in plan.objects if not wanted(plan, landed))
        keys = {landed.key for landed in objects}
        retried = (row if row.key in keys else replace(row, key=None) for row in plan.retried)
        return replace(plan, objects=objects, retried=tuple(row for row in retried if committed or row.key is not None))

    return _change(home.batches, plan_key(batch), without, _PLAN)


def drop_from_result(home: Home, batch: int, keys: Collection[str]) -> Result | None:
    """Write a result anew without the names of some rejected objects, as `drop_from_plan` does; its counts stay."""

    def without(result: Result) -> Result:
        return replace(result, rejected_keys=tuple(key for key in result.rejected_keys if key not in keys))

    return _change(home.batches, result_key(batch), without, _RESULT)


def planned_batches(home: Home, after: int = 0) -> list[int]:
    """The numbers of the batches beyond `after` that have a plan, ascending; only their names are listed."""
    names = (_NAME.fullmatch(key) for key in keys_below(home.batches, after=f"{after + 1:012d}"))
    return sorted(int(name[1]) for name in names if name and name[2] == "plan")


def forget_batches(home: Home, through: int) -> int:
    """Delete the plans and results of batches up to `through` that nobody can be at work on, and say how many.

    Replay deletes what is left. Raises StorageUnavailable.
    """

    def folded(keys: Iterator[str]) -> Iterator[str]:
        for key in keys:
            name = _NAME.fullmatch(key)
            if name and int(name[1]) <= through:
                yield key

    return delete_all(home.batches, folded(old_keys(home.batches, 2 * ATTEMPT_LIMIT)))


def plan_key(batch: int) -> str:
    """The name of a batch's plan below the batches; names sort as the numbers do."""
    return f"{batch:012d}.plan.json"


def result_key(batch: int) -> str:
    """The name of a batch's result below the batches."""
    return f"{batch:012d}.result.json"


class _Gone(Exception):
    """No plan or result stands there; no fault of storage, which would be tried again."""


_PLAN = TypeAdapter(Plan)
_RESULT = TypeAdapter(Result)
_T = TypeVar("_T", Plan, Result)


def _write(place: StorageLocation, key: str, value: _T, adapter: TypeAdapter[_T]) -> None:
    body = adapter.dump_json(value, indent=1)
    standing = _parse(write_once(place, key, body), place.uri_of(key), adapter.validate_json)
    if standing.nonce != value.nonce:
        raise AnotherStreamRunning(
            f"Another stream works on this home: it wrote {place.uri_of(key)} first. "
            "Stop one of the two; nothing was lost or doubled."
        )


def _read(place: StorageLocation, key: str, adapter: TypeAdapter[_T]) -> _T | None:
    body = read_if_exists(place, key)
    return None if body is None else _parse(body, place.uri_of(key), adapter.validate_json)


def _change(place: StorageLocation, key: str, edit: Callable[[_T], _T], adapter: TypeAdapter[_T]) -> _T | None:
    def edited(body: bytes | None) -> bytes:
        if body is None:
            raise _Gone
        standing = _parse(body, place.uri_of(key), adapter.validate_json)
        changed = edit(standing)
        return body if changed == standing else adapter.dump_json(changed, indent=1)

    try:
        return _parse(change(place, key, edited), place.uri_of(key), adapter.validate_json)
    except _Gone:
        return None


def _parse(body: bytes, uri: str, validate: Callable[[bytes], _T]) -> _T:
    try:
        return validate(body)
    except ValidationError as error:
        raise StateDamaged(f"{uri} cannot be read; restore it or delete it. {error.errors()[0]['msg']}.") from error
