"""Drop the feature rows of networks that are not in use any more, where photos have rows of others."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from store.errors import HomeInUse
from store.home import Home
from store.models.pca_models import describe_model, featurizers_in_use
from store.models.registry import current_featurizer, described_featurizers
from store.state.lease import hold_lease
from store.state.plans import AddedFile
from store.tables.commits import MAINTENANCE, commit_replacements, delete_rows
from store.tables.files import DataFile, Replacement, data_files, read_file, rewrite_file
from store.tables.handles import open_table, unsettled_plans
from store.tables.projections import SWITCHING
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS

_ARRIVAL = ("batch", "source", "etag")


@dataclass(frozen=True)
class PrunedFeatures:
    """How many rows of which featurizers were dropped, and how many stay because their photos have no other row."""

    dropped: dict[str, int]
    kept: dict[str, int]


def prune_features(home: Home, say: Callable[[str], None]) -> PrunedFeatures:
    """Drop the rows of all featurizers but the newest and those that are served or come next, and their projections.

    Each day is one transaction; whole files go where they can. A photo that has no other row keeps its own. Replaced
    files stay for a day, so that queries which have begun can read them. Killed at any point, a replay drops the rest.
    Raises HomeInUse when a batch under way makes rows of one of them, or other work holds or has changed the tables;
    StateDamaged, StorageUnavailable.
    """
    with hold_lease(home, "fruits models prune", say) as check:
        dropped, kept = Counter[str](), Counter[str]()
        projections = open_table(home, PROJECTION_ROWS)
        in_use = _in_use(home)
        if not {meta.id for meta in described_featurizers(home)} - in_use:
            return PrunedFeatures({}, {})
        _check_not_planned(home, in_use)
        # First: a projection without its feature row would be one too many.
        _drop_projections(home, projections, in_use)
        for day in sorted({file.partition["ingest_date"] for file in data_files(open_table(home, FEATURE_ROWS))}):
            check()
            # Opened before the pointer is read: a refeaturization that has begun since makes the commit fail.
            handle = open_table(home, FEATURE_ROWS)
            if _in_use(home) != in_use:
                raise HomeInUse("Other networks came into use meanwhile; run this again.")
            if handle is not None:
                _prune_day(home, handle, day, in_use, dropped, kept)
    return PrunedFeatures(dict(dropped), dict(kept))


def _in_use(home: Home) -> frozenset[str]:
    newest = current_featurizer(home)
    return frozenset() if newest is None else frozenset(featurizers_in_use(home, newest))


def _check_not_planned(home: Home, in_use: frozenset[str]) -> None:
    for plan in unsettled_plans(home):
        if others := sorted({*plan.featurizers} - in_use):
            raise HomeInUse(
                f"Batch {plan.batch} is planned with featurizer {others[0]} and not committed yet; "
                "let `fruits stream` finish it, and run this again."
            )


def _drop_projections(home: Home, handle: DeltaTable | None, in_use: frozenset[str]) -> None:
    projected = {file.partition["pca_version"] for file in data_files(handle)}
    versions = sorted(version for version in projected if describe_model(home, version).featurizer not in in_use)
    if handle is not None and versions:
        predicate = f"pca_version IN ({', '.join(map(str, versions))})"
        delete_rows(home, PROJECTION_ROWS, handle, predicate, SWITCHING)


def _prune_day(
    home: Home, handle: DeltaTable, day: date, in_use: frozenset[str], dropped: Counter[str], kept: Counter[str]
) -> None:
    files = [file for file in data_files(handle) if file.partition["ingest_date"] == day]
    rows_of = {file.path: _rows_by_featurizer(home, file) for file in files}
    with_others = [file for file in files if rows_of[file.path].keys() - in_use]
    if not with_others:
        return
    own = _photos_of(home, (file for file in files if rows_of[file.path].keys() & in_use), in_use)
    replacements: list[Replacement] = []
    gone: Counter[str] = Counter()
    for file in with_others:
        stays: Counter[str] = Counter()
        for rows in read_file(home, FEATURE_ROWS, file.path, [*_ARRIVAL, "featurizer"]):
            stays.update(rows.filter(_stays(rows, in_use, own))["featurizer"].to_pylist())
        goes = Counter(rows_of[file.path]) - stays
        kept.update({id: rows for id, rows in stays.items() if id not in in_use})
        if goes:
            gone.update(goes)
            replacements.append((file, _rewritten(home, file, stays.total(), in_use, own)))
    if replacements:
        commit_replacements(home, FEATURE_ROWS, handle, replacements, (MAINTENANCE,))
        dropped.update(gone)


def _rows_by_featurizer(home: Home, file: DataFile) -> dict[str, int]:
    if file.network is not None:
        return {file.network: file.rows}
    rows: Counter[str] = Counter()
    for part in read_file(home, FEATURE_ROWS, file.path, ["featurizer"]):
        rows.update(part["featurizer"].to_pylist())
    return dict(rows)


def _photos_of(home: Home, files: Iterable[DataFile], in_use: frozenset[str]) -> pa.Array:
    """Which photos have a row of a network in use: what is the same of each of a photo's rows, as one text."""

    def photos() -> Iterator[pa.Array]:
        for file in files:
            for rows in read_file(home, FEATURE_ROWS, file.path, [*_ARRIVAL, "featurizer"]):
                yield _photos_in(rows.filter(_is_of(rows, in_use)))

    return pa.concat_arrays([pa.array([], pa.string()), *photos()])


def _rewritten(home: Home, file: DataFile, rows: int, in_use: frozenset[str], own: pa.Array) -> AddedFile | None:
    return rewrite_file(home, FEATURE_ROWS, file, lambda part: _stays(part, in_use, own)) if rows else None


def _stays(rows: pa.RecordBatch, in_use: frozenset[str], own: pa.Array) -> pa.BooleanArray:
    return pc.or_(_is_of(rows, in_use), pc.invert(pc.is_in(_photos_in(rows), value_set=own)))


def _is_of(rows: pa.RecordBatch, featurizers: frozenset[str]) -> pa.BooleanArray:
    return pc.is_in(rows["featurizer"], value_set=pa.array(sorted(featurizers), pa.string()))


def _photos_in(rows: pa.RecordBatch) -> pa.Array:
    return pc.binary_join_element_wise(rows["batch"].cast(pa.string()), rows["source"], rows["etag"], "\0")
