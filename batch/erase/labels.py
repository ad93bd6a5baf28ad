"""What people said of erased photos, taken out of the table `labels` and of every file below it."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa
import pyarrow.compute as pc

from batch.erase.rows import ERASURE, ErasedRows, delete_log_files, unnamed_with_rows
from batch.erase.selection import Selection
from store.errors import StateDamaged, StorageUnavailable
from store.home import Home
from store.models.pca_models import drop_names
from store.objects.location import to_nfc
from store.objects.operations import delete_all, keys_below
from store.state.plans import AddedFile
from store.tables.commits import MAINTENANCE, commit_replacements
from store.tables.files import DataFile, data_files, read_file, write_large_file
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS, LABEL_ROWS, Table

_READ_AT_ONCE = 8


def erase_labels(home: Home, selection: Selection, check: Callable[[], None]) -> ErasedRows:
    """Remove what was said of images that have no photo but those of a selection; to be called before their rows go.

    A photo can have been in a fit under any label that was ever said of it, so versions that were fitted on such a
    label lose their names first. Labels of images that have no photo row at all go, too. Killed at any point, a replay
    does the rest: the rows tell it which images these are. Raises as `erase_rows`.
    """
    said = _said_of(home, selection)
    classifiers = len(drop_names(home, said.first_batches))
    erased = take_from_labels(
        home,
        hits=said.is_gone,
        without=lambda rows: rows.filter(pc.invert(said.is_gone(rows))),
        names={*said.gone.to_pylist(), *selection.names()},
        before=selection.before,
        check=check,
    )
    erased.classifiers = classifiers
    return erased


def count_labels(home: Home, selection: Selection) -> int:
    """How many rows of `labels` would go with a selection now. Raises StateDamaged, StorageUnavailable."""
    return count_in_labels(home, _said_of(home, selection).is_gone)


def take_from_labels(
    home: Home,
    hits: Callable[[pa.RecordBatch], pa.BooleanArray],
    without: Callable[[pa.RecordBatch], pa.RecordBatch],
    names: Collection[str],
    before: datetime,
    check: Callable[[], None],
) -> ErasedRows:
    """Rewrite the files that hold rows which `hits` marks as `without` has them, and delete every file that holds one.

    In one transaction, for whoever holds the lease while nobody can label photos. Files of the log that hold one of
    the `names` go, too. Replay does what is left. Raises as `erase_rows`.
    """
    handle = open_table(home, LABEL_ROWS)
    if handle is None:
        return ErasedRows()
    erased = ErasedRows()
    replaced: list[tuple[DataFile, AddedFile | None]] = []
    for file in data_files(handle):
        parts = list(_rows_in(home, file.path))
        if found := sum(hits(rows).true_count for rows in parts):
            if sum(rows.num_rows for rows in parts) != file.rows:
                raise StateDamaged(
                    f"{file.path} in {LABEL_ROWS.name} does not hold the {file.rows} rows that its log tells of; "
                    "nothing was erased. Restore it."
                )
            left = [rows for part in parts if (rows := without(part)).num_rows]
            folders = file.partition_folders
            replaced.append((file, write_large_file(home, LABEL_ROWS, left.__iter__, folders) if left else None))
            erased.rows += found
    if replaced:
        check()
        commit_replacements(home, LABEL_ROWS, handle, replaced, (MAINTENANCE, ERASURE))
        delete_all(home.labels, [file.path for file, _ in replaced])
    erased.rewritten_files = len(replaced)
    old = unnamed_with_rows(
        home, LABEL_ROWS, before, lambda path: any(hits(rows).true_count for rows in _rows_in(home, path))
    )
    erased.unreferenced_files = delete_all(home.labels, old)
    erased.log_files = delete_log_files(home, LABEL_ROWS, names)
    return erased


def count_in_labels(home: Home, hits: Callable[[pa.RecordBatch], pa.BooleanArray]) -> int:
    """How many rows of the table are marked. Raises StateDamaged, StorageUnavailable."""
    files = data_files(open_table(home, LABEL_ROWS))
    return sum(hits(rows).true_count for file in files for rows in _rows_in(home, file.path))


@dataclass(frozen=True)
class _Said:
    """The images that something was said of and that keep no photo; and, by featurizer and label, the lowest batch of
    a covered photo that the label was ever said of."""

    gone: pa.StringArray
    first_batches: dict[tuple[str, str], int]

    def is_gone(self, rows: pa.RecordBatch) -> pa.BooleanArray:
        return pc.is_in(rows["image_id"], value_set=self.gone)


def _said_of(home: Home, selection: Selection) -> _Said:
    labels: dict[str, set[str]] = defaultdict(set)
    for _, parts in _every_file(home, LABEL_ROWS, ["image_id", "label"]):
        for rows in parts:
            for image_id, label in zip(rows["image_id"].to_pylist(), rows["label"].to_pylist(), strict=True):
                labels[image_id].update([] if label is None else [to_nfc(label)])
    labelled = pa.array(sorted(labels), pa.string())
    kept: set[str] = set()
    first_batches: dict[tuple[str, str], int] = {}
    columns = list(dict.fromkeys([*selection.columns_of(FEATURE_ROWS), "featurizer"]))
    for is_named, parts in _every_file(home, FEATURE_ROWS, columns, labelled) if labels else ():
        for rows in parts:
            mask = selection.row_mask(rows)
            if is_named:
                kept.update(rows.filter(pc.invert(mask))["image_id"].to_pylist())
            covered = rows.filter(mask).select(["image_id", "featurizer", "batch"])
            for image_id, featurizer, batch in zip(*(column.to_pylist() for column in covered), strict=True):
                for label in labels[image_id]:
                    known = first_batches.get((featurizer, label), batch)
                    first_batches[featurizer, label] = min(batch, known)
    return _Said(pa.array(sorted(labels.keys() - kept), pa.string()), first_batches)


def _every_file(
    home: Home, table: Table, columns: list[str], images: pa.StringArray | None = None
) -> Iterator[tuple[bool, list[pa.RecordBatch]]]:
    """Of each file below a table: whether the table names it, and its rows, perhaps those of some images only.

    Files that no table names may be damaged or vanish: they hold what older versions had. What is committed during the
    search is searched, too: a photo that came meanwhile keeps its image's labels.
    """
    place = home.root.child(table.name)
    seen: set[tuple[str, bool]] = set()

    def rows_in(path: str, is_named: bool) -> tuple[bool, list[pa.RecordBatch]]:
        parts: Iterator[pa.RecordBatch] = read_file(home, table, path, columns)
        if images is not None:
            parts = (rows.filter(pc.is_in(rows["image_id"], value_set=images)) for rows in parts)
        try:
            return is_named, [rows for rows in parts if rows.num_rows]
        except StateDamaged:
            if is_named:
                raise
        except StorageUnavailable as error:
            if is_named or not isinstance(error.__cause__, FileNotFoundError):
                raise
        return False, []

    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="scan") as pool:
        while True:
            # Listed before the table is opened: what is committed in between is named by it.
            below = {path for path in keys_below(place) if not path.startswith("_delta_log/")}
            named = {file.path for file in data_files(open_table(home, table))}
            new = sorted({(path, path in named) for path in below | named} - seen)
            if not new:
                return
            seen.update(new)
            yield from pool.map(rows_in, *zip(*new, strict=True))


def _rows_in(home: Home, path: str) -> Iterator[pa.RecordBatch]:
    return read_file(home, LABEL_ROWS, path, LABEL_ROWS.file_schema.names)
