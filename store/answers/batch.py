"""The answers of one batch, out of the rows that it brought to the tables."""

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from store.answers.answer import Answer, Guess, what_to_do
from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, retry_storage
from store.state.plans import Plan, Result
from store.tables.files import data_files, missing_files_as_faults, read_file, read_small_file
from store.tables.handles import open_table
from store.tables.schemas import ANSWER_COLUMNS, FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS, Table, table_location

# Without the vectors: a feature row has 5 KB of them.
_PHOTO_COLUMNS = ("image_id", "source", "etag", "arrived_at", *ANSWER_COLUMNS)
_NAMED_COLUMNS = ("source", "top3", "novelty")
_REJECT_COLUMNS = ("source", "etag", "arrived_at", "reason", "detail")

# A float32 has seven digits, the last of which is not exact.
_DIGITS = 6

Row = Mapping[str, Any]


def answers_of_batch(home: Home, batch: int, plan: Plan | None, result: Result | None) -> list[Answer]:
    """The answers to those objects of a committed batch that have a row, in no promised order.

    They are read from the files that the batch's result names. Where one is gone (an erasure rewrites and deletes
    files, maintenance replaces them), or the result is, they come from the files that the table has now: a row that was
    erased gets no answer then. Replay gives equal answers while the rows stay. Raises StateDamaged, StorageRefused,
    StorageUnavailable.
    """
    # A photo has a row of each featurizer.
    by_version = {(row["source"], row["etag"]): row for row in _rows(home, batch, result, FEATURE_ROWS, _PHOTO_COLUMNS)}
    photos = list(by_version.values())
    named = {
        (version, row["source"]): row
        for version in {row["answer_version"] for row in photos} - {None}
        for row in _rows(home, batch, result, PROJECTION_ROWS, _NAMED_COLUMNS, version)
    }
    answers: list[Answer] = []
    for row in photos:
        version = row["answer_version"]
        said = {"predicted": row["answer"], "confidence": row["answer_confidence"]}
        if (key := _key_of(home, plan, row["source"])) is not None:
            answers.append(photo_answer(key, row, version, {**said, **named.get((version, row["source"]), {})}))
    for row in _rows(home, batch, result, REJECT_ROWS, _REJECT_COLUMNS):
        if (key := _key_of(home, plan, row["source"])) is not None:
            answers.append(reject_answer(key, row))
    return answers


def photo_answer(key: str, row: Row, model_version: int | None, said: Row) -> Answer:
    """The answer to a photo: from its feature row, and what a version said of it (`predicted`, `confidence`, `top3`,
    `novelty`, each of which may be missing)."""
    top3 = said.get("top3")
    return Answer(
        key=key,
        etag=row["etag"],
        arrived_at=row["arrived_at"],
        outcome="photo",
        image_id=row["image_id"],
        predicted=said.get("predicted"),
        confidence=_rounded(said.get("confidence")),
        top3=None if top3 is None else tuple(Guess(one["label"], round(one["confidence"], _DIGITS)) for one in top3),
        novelty=_rounded(said.get("novelty")),
        model_version=model_version,
    )


def reject_answer(key: str, row: Row) -> Answer:
    """The answer to an object that could not be used: from its row in `rejects`."""
    return Answer(
        key=key,
        etag=row["etag"],
        arrived_at=row["arrived_at"],
        outcome="reject",
        reason=row["reason"],
        detail=row["detail"],
        what_to_do=what_to_do(row["reason"]),
    )


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, _DIGITS)


def _key_of(home: Home, plan: Plan | None, source: str) -> str | None:
    """The key below the landing that a source lies in; None when nobody knows that landing any more."""
    if plan is not None and source.startswith(f"{plan.landing}/"):
        return source.removeprefix(f"{plan.landing}/")
    found = home.landing_of(source)
    return None if found is None else found[1]


def _rows(
    home: Home, batch: int, result: Result | None, table: Table, columns: Sequence[str], version: int | None = None
) -> list[Row]:
    """The rows that a batch brought to a table; of `projections` those of one version."""
    rows = None if result is None else _rows_of_result(home, result, table, columns, version)
    return _rows_of_table(home, batch, table, columns, version) if rows is None else rows


def _rows_of_result(
    home: Home, result: Result, table: Table, columns: Sequence[str], version: int | None
) -> list[Row] | None:
    """None when a file is gone."""
    rows: list[Row] = []
    for added in result.adds.get(table.name, ()):
        if version is not None and added.partition["pca_version"] != str(version):
            continue
        parts = read_small_file(home, table, added.path, columns)
        if parts is None:
            return None
        rows += _as_dicts(parts)
    return rows


def _rows_of_table(home: Home, batch: int, table: Table, columns: Sequence[str], version: int | None) -> list[Row]:
    def look() -> list[Row]:
        rows: list[Row] = []
        with missing_files_as_faults():
            for file in data_files(open_table(home, table)):
                may_hold = file.batches is None or file.batches[0] <= batch <= file.batches[1]
                if may_hold and (version is None or file.partition["pca_version"] == version):
                    parts = read_file(home, table, file.path, [*columns, "batch"])
                    rows += _as_dicts([part.filter(pc.equal(part["batch"], batch)) for part in parts])
        return rows

    return retry_storage(f"read {table_location(home, table).uri}", look, again=UNKNOWN_OUTCOME)


def _as_dicts(parts: Sequence[pa.RecordBatch]) -> list[Row]:
    return [row for part in parts for row in part.to_pylist()]
