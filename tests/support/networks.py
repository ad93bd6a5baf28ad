"""Homes in which photos have rows of several networks, without the networks."""

import json
from collections.abc import Collection
from typing import Any

import numpy as np
import pyarrow.compute as pc

from store.home import Home
from store.models.pca_models import name_served_featurizer
from store.objects.operations import overwrite
from store.tables.commits import append_once
from store.tables.files import data_files, read_file, vectors_column, write_file
from store.tables.handles import open_table
from store.tables.lacking import REFEATURIZING
from store.tables.schemas import FEATURE_ROWS
from tests.support.feature_rows import describe


def make_newest(home: Home, featurizer: str, length: int = 8) -> None:
    """Make a network the home's newest, as `--new-featurizer` does; what is served stays."""
    name_served_featurizer(home)
    describe(home, featurizer, length)
    overwrite(home.featurizers, "CURRENT.json", json.dumps({"serving": featurizer}).encode())


def add_rows(home: Home, featurizer: str, length: int = 8, without: Collection[str] = ()) -> int:
    """Give photos their row of a network, as refeaturizing does, but those whose source ends like one of these."""
    describe(home, featurizer, length)
    files = data_files(open_table(home, FEATURE_ROWS))
    columns = FEATURE_ROWS.file_schema.names
    parts = {file.path: list(read_file(home, FEATURE_ROWS, file.path, columns)) for file in files}
    have: set[tuple[Any, ...]] = set()
    for rows in (rows for some in parts.values() for rows in some):
        have.update(_arrivals(rows.filter(pc.equal(rows["featurizer"], featurizer))))
    adds = []
    for file in files:
        lack: list[dict[str, Any]] = []
        for rows in parts[file.path]:
            for row, arrival in zip(rows.to_pylist(), _arrivals(rows), strict=True):
                if arrival not in have and not row["source"].endswith(tuple(without) or "\0"):
                    have.add(arrival)
                    lack.append(row)
        if lack:
            vectors = np.random.default_rng(len(have)).normal(size=(len(lack), length)).astype(np.float32)
            made = {name: [row[name] for row in lack] for name in columns} | {"featurizer": [featurizer] * len(lack)}
            made["features"] = vectors_column(vectors)
            adds.append(write_file(home, FEATURE_ROWS, made, file.partition_folders, featurizer))
    append_once(home, FEATURE_ROWS, REFEATURIZING, adds, {}, lambda _: False)
    return sum(added.rows for added in adds)


def _arrivals(rows: Any) -> list[tuple[Any, ...]]:
    return list(zip(*(rows[name].to_pylist() for name in ("batch", "source", "etag")), strict=True))
