"""What a batch is (its plan) and what became of it (its result): two write-once objects each."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from features.errors import AnotherStreamRunning, StateDamaged
from features.home import Home
from features.landing import Landed
from features.objects import Place, keys_below, read_if_there, write_once

_PLAN_NAME = re.compile(r"(\d+)\.plan\.json")


@dataclass(frozen=True)
class Plan:
    """What batch `batch` is: the objects, and everything their outcome depends on."""

    batch: int
    nonce: str
    planned_at: datetime
    ingest_date: date
    landing: str
    key_pattern: str
    featurizer: str
    objects: tuple[Landed, ...]
    pca_versions: tuple[int, ...] = ()


@dataclass(frozen=True)
class AddedFile:
    """One parquet file of one table: path below the table, partition values, and Delta's statistics as JSON."""

    path: str
    size_bytes: int
    rows: int
    partition: Mapping[str, str]
    statistics: str


@dataclass(frozen=True)
class Counters:
    """What a batch counted; seconds are summed over tasks, except `wall_s`.

    `refused` are the rejects that storage refused to hand out; a key that no client can address is none of them.
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


@dataclass(frozen=True)
class Result:
    """What batch `batch` became: the files each table gains, by table name. Its existence is the commit point."""

    batch: int
    nonce: str
    finished_at: datetime
    adds: Mapping[str, tuple[AddedFile, ...]]
    rejected_keys: tuple[str, ...]
    counters: Counters


def write_plan(home: Home, plan: Plan) -> None:
    """Make a plan durable, once.

    Raises AnotherStreamRunning when another stream has planned this batch; a write that landed though its answer was
    lost is recognised by its nonce.
    """
    _write(home.batches, f"{plan.batch}.plan.json", plan, _PLAN)


def write_result(home: Home, result: Result) -> None:
    """Commit a batch's outcome, once. Raises AnotherStreamRunning when another stream has finished this batch."""
    _write(home.batches, f"{result.batch}.result.json", result, _RESULT)


def read_plan(home: Home, batch: int) -> Plan | None:
    """The plan of a batch, or None when there is none."""
    return _read(home.batches, f"{batch}.plan.json", _PLAN)


def read_result(home: Home, batch: int) -> Result | None:
    """The result of a batch, or None while it has none."""
    return _read(home.batches, f"{batch}.result.json", _RESULT)


def planned_batches(home: Home) -> list[int]:
    """The numbers of all batches that have a plan, ascending."""
    matches = (_PLAN_NAME.fullmatch(key) for key in keys_below(home.batches))
    return sorted(int(match[1]) for match in matches if match)


_PLAN = TypeAdapter(Plan)
_RESULT = TypeAdapter(Result)
_T = TypeVar("_T", Plan, Result)


def _write(place: Place, key: str, value: _T, adapter: TypeAdapter[_T]) -> None:
    body = adapter.dump_json(value, indent=1)
    standing = _parse(write_once(place, key, body), place.uri_of(key), adapter.validate_json)
    if standing.nonce != value.nonce:
        raise AnotherStreamRunning(
            f"Another stream works on this home: it wrote {place.uri_of(key)} first. "
            "Stop one of the two; nothing was lost or doubled."
        )


def _read(place: Place, key: str, adapter: TypeAdapter[_T]) -> _T | None:
    body = read_if_there(place, key)
    return None if body is None else _parse(body, place.uri_of(key), adapter.validate_json)


def _parse(body: bytes, uri: str, validate: Callable[[bytes], _T]) -> _T:
    try:
        return validate(body)
    except ValidationError as error:
        raise StateDamaged(f"{uri} cannot be read; restore it or delete it. {error.errors()[0]['msg']}.") from error
