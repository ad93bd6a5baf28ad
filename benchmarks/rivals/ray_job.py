"""Ray Data: batches of paths to tasks, on this machine alone."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from benchmarks.rivals.job import CORES, Run, compete, kept_featurizer, photo_files, rows_of

# Tried on 350 px and 12 MP photos on two cores: tasks and pools of actors, files read here and by `read_binary_files`,
# 4 and 16 blocks a core. Tasks in few blocks were ahead: the next job finds their idle processes with the network
# loaded, while a pool is started anew for each job. A pool of one actor for each core with a CPU each leaves none to
# the other steps, and that job did not end in 5 minutes.
ROWS_AT_ONCE = 8
BLOCKS_PER_CORE = 4


@contextmanager
def opened(network: str) -> Iterator[Run]:
    """Ray with as many workers as there are cores; no dashboard, no usage report."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
    import ray

    ray.init(num_cpus=CORES, include_dashboard=False, log_to_driver=False, logging_level="error")
    ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield partial(_run, network)
    finally:
        ray.shutdown()


def _run(network: str, photos: Path, out: Path) -> None:
    import ray

    paths = pa.table({"path": [str(path) for path in photo_files(photos)]})
    blocks = min(paths.num_rows, BLOCKS_PER_CORE * CORES)
    (
        ray.data.from_arrow(paths, override_num_blocks=blocks)
        .map_batches(_rows, fn_args=(network,), batch_size=ROWS_AT_ONCE, batch_format="pyarrow")
        .write_parquet(str(out))
    )


def _rows(batch: Any, network: str) -> pa.Table:
    return rows_of(kept_featurizer(network), batch["path"].to_pylist())


if __name__ == "__main__":
    compete("ray", opened)
