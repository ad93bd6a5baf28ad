"""Daft: a class of batch methods on its native runner, in this process."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.rivals.job import ROWS, Run, compete, photo_files, rows_of
from features.featurizer import Featurizer

# Tried on 350 px and 12 MP photos on two cores: threads and processes, files read here and by Daft's own `download`,
# 2 to 64 rows at once. Threads were ahead: they are there already, while processes are started anew for each query,
# and decoding and the network let go of the interpreter's lock. `download` took 800 MB where reading here took 280.
ROWS_AT_ONCE = 8


@contextmanager
def opened(network: str) -> Iterator[Run]:
    """Daft on its native runner, which uses all cores."""
    os.environ |= {"DO_NOT_TRACK": "true", "DAFT_PROGRESS_BAR": "0"}
    import daft

    daft.set_runner_native()
    columns = {column.name: daft.DataType.from_arrow_type(column.type) for column in ROWS}
    batch = daft.method.batch(return_dtype=daft.DataType.struct(columns), unnest=True, batch_size=ROWS_AT_ONCE)

    class Featurize:
        def __init__(self, body: bytes) -> None:
            self._body = body
            self._idle: list[Featurizer] = []

        def rows(self, sources: Any) -> Any:
            # Daft calls the one instance from several threads, and a network serves one at a time.
            featurizer = self._idle.pop() if self._idle else Featurizer(self._body)
            try:
                table = rows_of(featurizer, sources.to_pylist())
            finally:
                self._idle.append(featurizer)
            return daft.Series.from_arrow(table.to_struct_array().combine_chunks())

        rows = batch(rows)

    featurize = daft.cls(Featurize, use_process=False)(Path(network).read_bytes())
    yield partial(_run, featurize.rows)


def _run(rows: Callable[[Any], Any], photos: Path, out: Path) -> None:
    import daft

    paths = daft.from_pydict({"path": [str(path) for path in photo_files(photos)]})
    paths.select(rows(daft.col("path"))).write_parquet(str(out))


if __name__ == "__main__":
    compete("daft", opened)
