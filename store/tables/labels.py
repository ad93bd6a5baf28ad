"""What people said of photos after they came: the newest statement about an image counts, before its folder's label.

A statement about an image is one row for each day on which the image has photos, so that a refit finds the days that
it changes, and retention the rows that go with a day. `origin` tells how the photo came to be looked at; `folder` takes
all statements back.
"""

import hashlib
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from store.home import Home
from store.tables.commits import append_as_seen
from store.tables.files import data_files, read_file, write_file
from store.tables.handles import open_table
from store.tables.schemas import LABEL_ROWS

Origin = Literal["folder", "random", "chosen", "suspect"]

# The origin of a statement that takes back what was said: the folder's label counts again.
TAKEN_BACK: Origin = "folder"
# Who adds statements. Each commit has a number, so that what was decided by an older look at the table is refused.
LABELLING = "fruits-label"
_TICK = timedelta(microseconds=1)

_NOTHING_SAID = LABEL_ROWS.schema.empty_table()


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
    rows: pa.Table = field(default_factory=lambda: _NOTHING_SAID)

    def __len__(self) -> int:
        return len(self.image_ids)

    def labels_of(self, rows: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
        """The labels that count of rows with `image_id` and the folder's `label`, in NFC, null for none."""
        folders = pc.utf8_normalize(rows["label"], form="NFC")
        if not len(self):
            return folders
        places = pc.index_in(rows["image_id"], value_set=self.image_ids)
        return pc.if_else(pc.is_valid(places), pc.take(self.labels, places), folders)

    def says_of(self, rows: pa.RecordBatch | pa.Table) -> pa.Array | pa.ChunkedArray:
        """Which rows with `image_id` are of an image that a statement counts for."""
        return pc.is_in(rows["image_id"], value_set=self.image_ids)

    @cached_property
    def digests(self) -> Mapping[date, str]:
        """Of each day on which a statement counts: a hash of the images in it and of the labels that count for them."""
        digests: dict[date, str] = {}
        counting = self.rows.filter(self.says_of(self.rows))
        for day in pc.unique(counting["ingest_date"]).to_pylist():
            of_day = counting.filter(pc.equal(counting["ingest_date"], day))
            images = pc.unique(of_day["image_id"]).sort()
            labels = pc.take(self.labels, pc.index_in(images, value_set=self.image_ids))
            said = hashlib.sha256()
            for image_id, label in zip(images.to_pylist(), labels.to_pylist(), strict=True):
                said.update(f"{image_id}{'' if label is None else f'={label}'}\n".encode("utf-8", "surrogatepass"))
            digests[day] = said.hexdigest()
        return digests


def said_labels(home: Home, until: datetime | None = None) -> SaidLabels:
    """The statements that count now, or that counted at the moment `until`; none before the table was created.

    Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    return read_labels(home, open_table(home, LABEL_ROWS), until)


def read_labels(home: Home, handle: DeltaTable | None, until: datetime | None = None) -> SaidLabels:
    """The same of a table as a handle knows it."""
    columns = LABEL_ROWS.file_schema.names
    parts = [
        pa.Table.from_batches([rows]).append_column(
            "ingest_date", pa.repeat(pa.scalar(file.partition["ingest_date"], pa.date32()), rows.num_rows)
        )
        for file in data_files(handle)
        for rows in read_file(home, LABEL_ROWS, file.path, columns)
    ]
    rows = pa.concat_tables([_NOTHING_SAID, *parts])
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


def _newest(rows: pa.Table) -> pa.Table:
    """The newest statement about each image, by image; rows of one statement say the same."""
    ordered = rows.sort_by([("image_id", "ascending"), ("said_at", "ascending")])
    if not ordered.num_rows:
        return ordered
    ids = ordered["image_id"].combine_chunks()
    is_last = pc.not_equal(ids[:-1], ids[1:])
    return ordered.filter(pa.concat_arrays([is_last, pa.array([True])]))
