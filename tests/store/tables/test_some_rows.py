"""Some rows of a file are read without the others: only row groups that have one are fetched."""

from dataclasses import replace
from datetime import date

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from store.home import Home
from store.settings import load_settings
from store.tables import files
from store.tables.files import read_file, write_large_file
from store.tables.schemas import FEATURE_ROWS
from tests.support.feature_rows import made_columns

DAY = date(2026, 10, 5)
ROWS = 23
GROUP_ROWS = 5


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Home, str]:
    """A file whose row groups have five rows, and where a reader gets three at a time."""
    home = load_settings(home=str(tmp_path_factory.mktemp("rows") / "home")).places()
    columns = made_columns(home, 1, DAY, range(ROWS), "abc") | {
        "features": [[float(n), -float(n)] for n in range(ROWS)]
    }
    nulls = {name: pa.nulls(ROWS, FEATURE_ROWS.schema.field(name).type) for name in FEATURE_ROWS.missing_in(columns)}
    rows = pa.table({**columns, **nulls}, schema=FEATURE_ROWS.file_schema)
    small_groups = replace(FEATURE_ROWS, row_group_rows=GROUP_ROWS)
    added = write_large_file(home, small_groups, rows.to_batches, {"ingest_date": f"{DAY}"})
    return home, added.path


@given(st.sets(st.integers(0, ROWS - 1)))
def test_rows_come_by_their_places(written: tuple[Home, str], places: set[int]) -> None:
    home, path = written
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "READ_ROWS", 3)
        parts = read_file(home, FEATURE_ROWS, path, ["source", "features"], np.array(sorted(places), np.int64))
        found = [row for part in parts for row in part.to_pylist()]
        everything = [
            row for part in read_file(home, FEATURE_ROWS, path, ["source", "features"]) for row in part.to_pylist()
        ]
    assert found == [everything[place] for place in sorted(places)]
    assert len(everything) == ROWS


def test_row_groups_without_such_rows_are_not_fetched(written: tuple[Home, str]) -> None:
    home, path = written
    file = home.root.directory / "features" / path
    column = pq.ParquetFile(file).metadata.row_group(0).column(FEATURE_ROWS.file_schema.names.index("features"))
    body = bytearray(file.read_bytes())
    start = column.data_page_offset
    body[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    damaged = "ingest_date=2026-10-05/damaged.parquet"
    (file.parent / "damaged.parquet").write_bytes(body)
    places = np.array([GROUP_ROWS, ROWS - 1], np.int64)
    [first, last] = read_file(home, FEATURE_ROWS, damaged, ["features"], places)
    assert (first["features"].to_pylist(), last["features"].to_pylist()) == ([[5.0, -5.0]], [[22.0, -22.0]])
