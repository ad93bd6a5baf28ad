"""What people said of photos after they came: the newest statement about an image counts, before its folder's label.

A statement about an image is one row for each day on which the image has photos, so that a refit finds the days that
it changes, and retention the rows that go with a day. `origin` tells how the photo came to be looked at; `folder` takes
all statements back.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import cached_property, partial
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from store.home import Home
from store.tables.commits import append_as_seen
from store.tables.files import DataFile, data_files, read_file, write_file
from store.tables.handles import open_table
from store.tables.schemas import LABEL_ROWS

Origin = Literal["folder", "random", "chosen", "suspect"]

# The origin of a statement that takes back what was said: the folder's label counts again.
TAKEN_BACK: Origin = "folder"
# Of a photo that was drawn by lot, so that it speaks for all others.
RANDOM: Origin = "random"
# Who adds statements. Each commit has a number, so that what was decided by an older look at the table is refused.
LABELLING = "fruits-label"
_TICK = timedelta(microseconds=1)
# Each statement made by itself is a small file, and on S3 most of the time is waiting.
_READERS = 16

_NOTHING_ROWS = LABEL_ROWS.schema.empty_table()


@dataclass(frozen=True, slots=True)
class Statement:
    """What somebody says of an image: its label, None for none; `days` are those on which it has photos."""

    image_id: str
    label: str | None
    origin: Origin
    days: tuple[date, ...]


@dataclass(frozen=True, eq=False)
class SaidLabels:
    """The statements that count, of the images that have one.

    `image_ids` (n,) are ascending, without repeats; `labels` (n,) in NFC, null for a photo that has none; `origins`
    (n,). `said_until` is the time of the newest statement of all, also of one that took others back; None without any.
    """

    image_ids: pa.StringArray
    labels: pa.StringArray
    origins: pa.StringArray
    said_until: datetime | None = None
    rows: pa.Table = field(default_factory=lambda: _NOTHING_ROWS)

    def __len__(self) -> int:
        return len(self.image_ids)

    def labels_of(self, rows: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
        """The labels that count of rows with `image_id` and the folder's `label`, in NFC, null for none."""
        folders = pc.utf8_normalize(rows["label"], form="NFC")
        if not len(self):
            return folders
        places = self._places(rows)
        return pc.if_else(pc.is_valid(places), pc.take(self.labels, places), folders)

    def changes(self, rows: pa.RecordBatch | pa.Table) -> pa.BooleanArray:
        """Which rows with `image_id` and the folder's `label` have another label that counts."""
        if not len(self):
            return pa.repeat(pa.scalar(False), len(rows["label"]))
        folders, counting = NOTHING_SAID.labels_of(rows), self.labels_of(rows)
        is_other = pc.fill_null(pc.not_equal(folders, counting), False)
        return pc.or_(is_other, pc.xor(pc.is_valid(folders), pc.is_valid(counting)))

    def says_of(self, rows: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
        """Which rows with `image_id` are of an image that a statement counts for."""
        return pc.is_valid(self._places(rows))

    def origins_of(self, rows: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
        """The origins of what counts for rows with `image_id`, null where the folder's label counts."""
        return pc.take(self.origins, self._places(rows))

    def without_rows(self) -> "SaidLabels":
        """The same for who asks for labels only: what counts, without all that was ever said."""
        return replace(self, rows=_NOTHING_ROWS)

    @cached_property
    def digests(self) -> Mapping[date, str]:
        """Of each day of which something was said: a hash of its images, and of what counts for them.

        An image whose statements were taken back stays in it: on a later day it may have had a copy already that
        somebody read before anything was said of that day.
        """
        texts: dict[date, list[str]] = defaultdict(list)
        of_days = self.rows.group_by(["ingest_date", "image_id"]).aggregate([])
        columns = (of_days["ingest_date"], of_days["image_id"], self.says_of(of_days), self._said_of(of_days))
        for day, image_id, counts, label in zip(*(column.to_pylist() for column in columns), strict=True):
            texts[day].append(f"{image_id} {'=' if label is not None else '-' if counts else ''}{label or ''}\n")
        return {
            day: hashlib.sha256("".join(sorted(of_day)).encode("utf-8", "surrogatepass")).hexdigest()
            for day, of_day in texts.items()
        }

    def _said_of(self, rows: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
        return pc.take(self.labels, self._places(rows))

    def _places(self, rows: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
        """The place of each row's image in `image_ids`, null for none."""
        images = rows["image_id"]
        if len(self) <= len(images):
            return pc.index_in(images, value_set=self.image_ids)
        # An index of a million statements takes half a second, and some 2000 rows are asked for at a time.
        of_rows = pc.is_in(self.image_ids, value_set=pc.unique(images))
        places = pc.indices_nonzero(of_rows)
        return pc.take(places, pc.index_in(images, value_set=self.image_ids.filter(of_rows)))


# Of who looks at labels where nothing was ever said.
NOTHING_SAID = SaidLabels(pa.array([], pa.string()), pa.array([], pa.string()), pa.array([], pa.string()))


def said_labels(home: Home, until: datetime | None = None) -> SaidLabels:
    """The statements that count now, or that counted at the moment `until`; none before the table was created.

    Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    return read_labels(home, open_table(home, LABEL_ROWS), until)


def read_labels(home: Home, handle: DeltaTable | None, until: datetime | None = None) -> SaidLabels:
    """The same of a table as a handle knows it."""
    with ThreadPoolExecutor(_READERS) as readers:
        parts = list(readers.map(partial(_rows_of_file, home), data_files(handle)))
    rows = pa.concat_tables([_NOTHING_ROWS, *parts])
    if until is not None:
        rows = rows.filter(pc.less_equal(rows["said_at"], pa.scalar(until, rows["said_at"].type)))
    newest = _newest(rows)
    counting = newest.filter(pc.not_equal(newest["origin"], TAKEN_BACK))
    return SaidLabels(
        counting["image_id"].combine_chunks(),
        pc.utf8_normalize(counting["label"], form="NFC").combine_chunks(),
        counting["origin"].combine_chunks(),
        pc.max(rows["said_at"]).as_py(),
        rows,
    )


def add_statements(
    home: Home, handle: DeltaTable, statements: Sequence[Statement], said_by: str | None = None
) -> datetime:
    """Append statements in one transaction, each with a time of its own, later than all before; returns the last one.

    `handle` is the table as it was when somebody looked up the images; it cannot be used again. Replay says the same
    once more, which changes nothing that counts. Raises HomeInUse when other statements, or an erasure, came meanwhile;
    StorageRefused, StorageUnavailable.
    """
    newest = pa.table(handle.get_add_actions(flatten=True))
    before = pc.max(newest["max.said_at"]).as_py() if "max.said_at" in newest.column_names else None
    now = datetime.now(UTC)
    first = max(now, before.astimezone(UTC) + _TICK) if before else now
    times = [first + place * _TICK for place in range(len(statements))]
    of_days: dict[date, list[tuple[Statement, datetime]]] = defaultdict(list)
    for statement, said_at in zip(statements, times, strict=True):
        for day in statement.days:
            of_days[day].append((statement, said_at))
    adds = [
        write_file(
            home,
            LABEL_ROWS,
            {
                "image_id": [statement.image_id for statement, _ in said],
                "label": [statement.label for statement, _ in said],
                "origin": [statement.origin for statement, _ in said],
                "said_at": [said_at for _, said_at in said],
                "said_by": [said_by] * len(said),
            },
            {"ingest_date": day.isoformat()},
        )
        for day, said in sorted(of_days.items())
    ]
    append_as_seen(home, LABEL_ROWS, handle, adds, LABELLING)
    return times[-1]


def _rows_of_file(home: Home, file: DataFile) -> pa.Table:
    rows = pa.Table.from_batches(
        read_file(home, LABEL_ROWS, file.path, LABEL_ROWS.file_schema.names), LABEL_ROWS.file_schema
    )
    day = pa.scalar(file.partition["ingest_date"], pa.date32())
    return rows.append_column("ingest_date", pa.repeat(day, rows.num_rows))


def _newest(rows: pa.Table) -> pa.Table:
    """The newest statement about each image, by image; rows of one statement say the same."""
    ordered = rows.sort_by([("image_id", "ascending"), ("said_at", "ascending")])
    if not ordered.num_rows:
        return ordered
    ids = ordered["image_id"].combine_chunks()
    is_last = pc.not_equal(ids[:-1], ids[1:])
    return ordered.filter(pa.concat_arrays([is_last, pa.array([True])]))
