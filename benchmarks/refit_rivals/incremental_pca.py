"""scikit-learn's IncrementalPCA on some of the same rows; prints one JSON line.

python -m benchmarks.refit_rivals.incremental_pca --home DIR --rows 12800 [--components 64]
"""

import argparse
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from sklearn.decomposition import IncrementalPCA

from benchmarks.rivals.job import answering
from features.featurizer import FEATURES

# Its own default: five rows for each feature.
ROWS_AT_ONCE = 5 * FEATURES


def main() -> None:
    """Read files until there are enough rows, and fit them; one process, as many threads as NumPy takes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--home", required=True)
    parser.add_argument("--rows", type=int, default=2 * ROWS_AT_ONCE)
    parser.add_argument("--components", type=int, default=64)
    asked = parser.parse_args()
    with answering() as answer:
        started_s = time.perf_counter()
        parts: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]] = []
        for path in sorted(Path(asked.home, "features").glob("*/*.parquet")):
            column = pq.ParquetFile(path).read(["features"])["features"].combine_chunks()
            parts.append(column.flatten().to_numpy().reshape(-1, FEATURES))
            if sum(map(len, parts)) >= asked.rows:
                break
        rows = np.concatenate(parts)[: asked.rows]
        IncrementalPCA(asked.components, batch_size=min(ROWS_AT_ONCE, len(rows))).fit(rows)
        answer({"rows": len(rows), "seconds": time.perf_counter() - started_s})


if __name__ == "__main__":
    main()
