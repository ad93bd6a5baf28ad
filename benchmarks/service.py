"""The running service under measurement: `fruits stream` as a user starts it, followed by what it prints."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.rivals.job import CORES, peak_mb
from features.classifier import within_labels
from features.errors import FruitsError, InvalidSetting
from features.featurizer import FEATURES
from features.label_sums import RowSummer
from features.pca import fit
from store.home import Home
from store.models.pca_models import PcaMeta, PcaModel, begin_switch, finish_switch, publish_model
from store.models.registry import publish_featurizer
from store.settings import Settings
from tests.support.spark_cluster import processes_of

STOP_S = 120.0
RAMP_UP_BATCHES = 2
ROWS_A_LABEL = 20


class ServiceEnded(FruitsError):
    """The stream ended by itself while it was measured."""


@dataclass(frozen=True)
class SteadyState:
    """What the service did after its first two batches, when batches have reached their full size.

    shares: of the cores' time by stage, together 1; `idle` is all that tasks do not count, Spark's own work included.
    commit_share: of the time on the clock, in which the driver read plans and committed; tasks run meanwhile.
    cpu_s: processor time of the service's own processes meanwhile.
    """

    batches: int
    photos: int
    seconds: float
    shares: dict[str, float]
    commit_share: float
    peak_worker_mb: float
    cpu_s: float

    @property
    def cpu_ms_a_photo(self) -> float:
        """What the service's own processes took of the cores for a photo, in milliseconds."""
        return 1000 * self.cpu_s / self.photos

    @property
    def photos_per_s(self) -> float:
        return self.photos / self.seconds


def steady_state(
    settings: Settings, network: bytes, count: int, *flags: str, copy_px: int | None = None
) -> SteadyState:
    """Let the service work off `count` waiting photos, and measure from its second batch's end to its last one's.

    The home must be new. With `copy_px` features are made from copies. What happens between batches counts: planning,
    listing, commits, Spark's own work.
    Raises ServiceEnded with the service's last words.
    """
    batches, done, most_mb, cpu_s = [], 0, 0.0, list[float]()
    with running_stream(settings, network, *flags, copy_px=copy_px) as process:
        for batch in reports(process):
            batches.append(batch)
            cpu_s.append(_cpu_seconds(process.pid))
            workers = (found for found in processes_of({process.pid}) if found.is_python)
            most_mb = max(most_mb, *(peak_mb(worker.pid) for worker in workers))
            done += batch["photos"] + sum(batch["rejects"].values())
            if done >= count:
                break
    if len(batches) <= RAMP_UP_BATCHES:
        raise InvalidSetting(f"{len(batches)} batches show no steady state; measure with more photos.")
    ends = [datetime.fromisoformat(batch["time"]) for batch in batches]
    seconds = (ends[-1] - ends[RAMP_UP_BATCHES - 1]).total_seconds()
    counted = batches[RAMP_UP_BATCHES:]
    shares = {
        name: sum(batch["counters"][f"{name}_s"] for batch in counted) / (CORES * seconds)
        for name in ("fetch", "decode", "infer", "write")
    }
    shares["idle"] = 1 - sum(shares.values())
    driver_s = sum(batch["plan_s"] + batch["commit_s"] for batch in counted)
    photos = sum(batch["photos"] for batch in counted)
    cpu = cpu_s[-1] - cpu_s[RAMP_UP_BATCHES - 1]
    return SteadyState(len(counted), photos, seconds, shares, driver_s / seconds, most_mb, cpu)


def serve_version(home: Home, network: bytes, labels: int) -> None:
    """Give a new home a featurizer, and a served version of 64 components that names so many labels."""
    featurizer = publish_featurizer(home, network, "benchmark", "benchmark").id
    random = np.random.default_rng(0)
    kinds = [f"kind {number:03d}" for number in range(labels)] * ROWS_A_LABEL
    summer = RowSummer(FEATURES)
    summer.add(random.standard_normal((len(kinds), FEATURES)).astype(np.float32), kinds, [None] * len(kinds))
    sums = summer.result()
    pca, classifier = fit(sums.moments, 64, None), within_labels(sums, ROWS_A_LABEL).classifier()
    classifier = replace(classifier, strange_distances=np.arange(1000, dtype=np.float32))
    now = datetime.now(UTC)
    meta = PcaMeta(1, featurizer, sums.rows, 64, 0.5, now, None, None, "a benchmark", last_batch=0, labels=labels)
    publish_model(home, PcaModel(meta, pca, classifier))
    finish_switch(home, begin_switch(home, 1), featurizer)


@contextmanager
def running_stream(
    settings: Settings, network: bytes, *flags: str, copy_px: int | None = None
) -> Iterator[subprocess.Popen[str]]:
    """`fruits stream` on a home that gets this featurizer; told to stop at the end, as by Ctrl-C."""
    publish_featurizer(settings.places(), network, "benchmark", "benchmark", copy_px=copy_px)
    command = [sys.executable, "-m", "ops", "stream", "--home", settings.home, "--master", settings.master]
    for name in ("landing", "s3_endpoint", "s3_region"):
        if (value := getattr(settings, name)) is not None:
            command += [f"--{name.replace('_', '-')}", value]
    command += flags
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=STOP_S)


def reports(process: "subprocess.Popen[str]") -> Iterator[dict[str, Any]]:
    """The batches as the service prints them. Raises ServiceEnded when it ends."""
    assert process.stdout is not None
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == "batch":
            yield event
    raise ServiceEnded(f"The stream ended with {process.wait()}; what it said is above.")


def _cpu_seconds(leader: int) -> float:
    """Processor time so far of the living processes of a leader's session, in seconds."""
    ticks = 0
    for process in processes_of({leader}):
        with suppress(OSError):
            fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
