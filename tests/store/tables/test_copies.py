"""How copies are held and written: bounded memory, in small row groups, with nothing of a picture in statistics."""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from store.errors import StateDamaged
from store.home import Home
from store.settings import load_settings
from store.tables.commits import commit
from store.tables.copies import CopySpool, PhotoRow, copied_among, read_copies
from store.tables.files import read_file, write_large_file
from store.tables.handles import create_copies, create_tables, open_table, open_tables, tables_of_batches
from store.tables.schemas import COPY_ROWS, TABLES

NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)
DAY = {"ingest_date": "2026-11-28"}


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return load_settings(home=str(tmp_path / "home")).places()


def test_copies_come_back_as_they_were_in_small_row_groups(home: Home) -> None:
    copies = [bytes([number]) * (1000 + number) for number in range(150)]
    with CopySpool() as spool:
        for number, copy in enumerate(copies):
            row = {"image_id": f"{number}", "source": f"s/{number}", "etag": "e", "arrived_at": NOON, "batch": 7}
            spool.add(row | {"label": "no column of a copy"}, copy)
        added = write_large_file(home, COPY_ROWS, spool.parts, DAY)
    rows = [
        row for part in read_file(home, COPY_ROWS, added.path, COPY_ROWS.file_schema.names) for row in part.to_pylist()
    ]
    assert [row["jpeg"] for row in rows] == copies
    assert [(row["image_id"], row["batch"]) for row in rows] == [(f"{number}", 7) for number in range(150)]
    assert max(part.num_rows for part in read_file(home, COPY_ROWS, added.path, ["jpeg"])) <= 64

    written = pq.ParquetFile(home.copies.directory / added.path).metadata
    assert [written.row_group(n).num_rows for n in range(written.num_row_groups)] == [64, 64, 22]
    columns = {written.row_group(0).column(n).path_in_schema: written.row_group(0).column(n) for n in range(6)}
    assert columns["jpeg"].compression == "UNCOMPRESSED"
    assert {name for name, column in columns.items() if column.is_stats_set} == {"arrived_at", "batch"}
    assert "source" not in added.statistics and "jpeg" not in added.statistics


def _written(home: Home, copies: list[bytes]) -> list[PhotoRow]:
    create_tables(home)
    create_copies(home)
    day = NOON.date()
    rows = [PhotoRow(f"{number}", f"s/{number}", "e", NOON, 7 + number // 100, day) for number in range(len(copies))]
    for batch in (7, 8):
        with CopySpool() as spool:
            for row, copy in zip(rows, copies, strict=True):
                if row.batch == batch:
                    spool.add(asdict(row), copy)
            commit(home, COPY_ROWS, batch, "a test", [write_large_file(home, COPY_ROWS, spool.parts, DAY)])
    return rows


def test_single_copies_are_found_by_their_rows(home: Home) -> None:
    rows = _written(home, [bytes([number]) * 1000 for number in range(150)])
    absent = replace(rows[1], etag="another")
    asked = [rows[149], rows[3], rows[101], absent]
    found = dict(read_copies(home, asked))
    assert found == {rows[n]: bytes([n]) * 1000 for n in (3, 101, 149)}
    assert list(read_copies(home, [])) == []
    assert copied_among(open_table(home, COPY_ROWS), asked) == {rows[149], rows[3], rows[101]}


def test_a_damaged_copy_is_never_taken_for_a_picture(home: Home) -> None:
    rows = _written(home, [bytes([number]) * 1000 for number in range(150)])
    [file] = [path for path in home.copies.directory.glob("*/*.parquet") if bytes([3]) * 1000 in path.read_bytes()]
    body = file.read_bytes()
    file.write_bytes(body.replace(bytes([3]) * 1000, bytes([3]) * 999 + bytes([4])))
    with pytest.raises(StateDamaged, match=rf"{file.name} cannot be read; restore it.*CRC checksum"):
        list(read_copies(home, [rows[3]]))
    # Those of other row groups can be had.
    assert dict(read_copies(home, [rows[80]])) == {rows[80]: bytes([80]) * 1000}


def test_the_table_begins_with_the_batch_of_the_others_and_homes_without_it_pay_nothing(home: Home) -> None:
    create_tables(home)
    for batch in (1, 2):
        for table in TABLES if batch == 1 else TABLES[:2]:
            commit(home, table, batch, "a test", [])
    assert tables_of_batches(home) == TABLES
    assert open_tables(home).committed == (2, 2, 1)
    create_copies(home)
    create_copies(home)
    handle = open_table(home, COPY_ROWS)
    assert handle is not None
    assert handle.version() == 0
    # The batch that `rejects` lacks is rolled forward in both.
    assert (open_tables(home).committed, open_tables(home).committed_to_all) == ((2, 2, 1, 1), 1)
    assert [table.name for table in tables_of_batches(home)] == ["features", "projections", "copies", "rejects"]


def test_a_table_that_lost_its_log_is_not_made_anew(home: Home) -> None:
    create_tables(home)
    (home.copies.directory / "ingest_date=2026-11-28").mkdir(parents=True)
    (home.copies.directory / "ingest_date=2026-11-28/part.parquet").write_bytes(b"copies")
    for work in (create_copies, tables_of_batches):
        with pytest.raises(StateDamaged, match="copies lacks its log, and files of it are there; restore it"):
            work(home)
