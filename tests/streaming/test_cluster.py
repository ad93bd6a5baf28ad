"""The stream on a cluster: executors come under backlog, machines go, and every photo has one row."""

import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from bootstrap.weights.weights import CompiledNetwork
from features.featurizer import Featurizer
from features.image import decode
from ops.status.status import read_status
from store.settings import Settings
from tests.support.feature_rows import serve_a_model
from tests.support.pictures import encoded, grainy, text_file, truncated_jpeg
from tests.support.spark_cluster import Cluster, node_python, spark_cluster
from tests.support.stream_run import photos_told, rows, stream_process

PHOTOS = 24
CONF = """\
spark.dynamicAllocation.enabled                  true
spark.dynamicAllocation.shuffleTracking.enabled  true
spark.dynamicAllocation.minExecutors             1
spark.dynamicAllocation.initialExecutors         1
spark.dynamicAllocation.maxExecutors             2
spark.dynamicAllocation.schedulerBacklogTimeout  1s
spark.executor.cores                             1
spark.executor.memory                            512m
spark.executor.extraJavaOptions                  -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
"""


@pytest.mark.processes
def test_a_stream_on_a_cluster_gets_executors_under_backlog_and_survives_a_lost_machine(
    local_settings: Callable[..., Settings],
    untrained: CompiledNetwork,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = local_settings()
    serve_a_model(settings.places())
    nodes = tmp_path / "nodes"
    nodes.mkdir()
    python = node_python(nodes)
    (tmp_path / "spark-defaults.conf").write_text(CONF)
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    monkeypatch.setenv("PYSPARK_PYTHON", str(python))

    with spark_cluster(nodes, workers=2, cores=1) as cluster:
        # While the cluster comes up.
        bodies = _drop_photos(settings)
        with stream_process(settings, "--drain", master=cluster.url) as process:
            first = _wait_for(cluster.executor_pids, 1, process)
            assert len(first) == 1
            both = _wait_for(cluster.executor_pids, 2, process)
            workers = _wait_for(lambda: _with_the_network(cluster), 2, process)
            for worker in workers:
                _assert_runs_the_wheel(worker, python, nodes)
            _lose_the_machine_of(cluster, *set(both) - set(first))
            output, message = process.communicate(timeout=120)

    assert (process.returncode, message) == (0, "")
    assert photos_told(output) == PHOTOS
    # Python writes it when it first imports the module, which the driver does elsewhere.
    assert list(python.parents[1].glob("lib/*/site-packages/streaming/executor/__pycache__/task.*.pyc"))
    status = read_status(settings.places(), verify=True)
    assert (status.unfinished_batches, status.backlog.files, status.broken) == ([], 0, [])
    found = rows(settings, "SELECT source, features FROM features")
    assert sorted(Path(row["source"]).name for row in found) == sorted(bodies)
    rejects = rows(settings, "SELECT source, reason FROM rejects")
    assert {Path(row["source"]).name: row["reason"] for row in rejects} == {
        "notes.webp": "not_an_image",
        "cut.jpg": "truncated",
    }
    assert len(rejects) == 2
    network = Featurizer(untrained.network)
    expected = [network.features(decode(body, settings.limits).pixels[None])[0] for body in list(bodies.values())[:2]]
    for row in found:
        number = int(Path(row["source"]).stem)
        assert np.allclose(row["features"], expected[number % 2], rtol=1e-5, atol=1e-6)


def _drop_photos(settings: Settings) -> dict[str, bytes]:
    """Two pictures that take a while to decode, as many files: what follows a picture in its file is not read."""
    drawn = grainy(1, 4000, 3000)
    pictures = [encoded(picture, "WEBP", quality=80, method=0) for picture in (drawn, drawn[::-1])]
    bodies = {f"{number}.webp": pictures[number % 2] + number.to_bytes(2) for number in range(PHOTOS)}
    folder = settings.places().landing.directory / "kiwi"
    folder.mkdir(parents=True)
    for name, body in {**bodies, "notes.webp": text_file(), "cut.jpg": truncated_jpeg()}.items():
        (folder / name).write_bytes(body)
    return bodies


def _with_the_network(cluster: Cluster) -> list[int]:
    found = []
    for pid in cluster.python_worker_pids():
        with suppress(OSError):
            if b"litert" in Path(f"/proc/{pid}/maps").read_bytes():
                found.append(pid)
    return found


def _assert_runs_the_wheel(worker: int, python: Path, nodes: Path) -> None:
    process = Path(f"/proc/{worker}")
    assert (process / "cmdline").read_bytes().split(b"\0")[0] == os.fsencode(python)
    assert (process / "cwd").readlink().is_relative_to(nodes)


def _lose_the_machine_of(cluster: Cluster, executor: int) -> None:
    for pid in (cluster.node_of(executor), executor):
        os.kill(pid, signal.SIGKILL)


def _wait_for(pids: Callable[[], list[int]], count: int, process: "subprocess.Popen[str]") -> list[int]:
    deadline_s = time.monotonic() + 90
    while len(found := pids()) < count:
        assert time.monotonic() < deadline_s, "timed out"
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return found
