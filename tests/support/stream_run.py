"""Runs of the stream, in the suite's session and as a process, and what they leave in the tables."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pyspark.sql import SparkSession

from bootstrap.weights.weights import CompiledNetwork
from ops.query.query import connect, run_query
from store.models.registry import current_featurizer, publish_featurizer
from store.objects.landing import list_landed
from store.settings import Settings
from store.state.plans import Plan, write_plan
from store.tables.handles import create_tables
from streaming.micro_batch import BatchReport
from streaming.planner import PlannerReport
from streaming.service import StreamListener, stream_in


@dataclass
class Run:
    """What a run reported."""

    reports: list[BatchReport] = field(default_factory=list)
    news: list[PlannerReport] = field(default_factory=list)

    @property
    def watcher(self) -> StreamListener:
        return StreamListener(self.reports.append, self.news.append)

    @property
    def photos(self) -> int:
        return sum(report.photos for report in self.reports)


def run_here(spark: SparkSession, settings: Settings, scratch: Path) -> Run:
    run = Run()
    stream_in(spark, settings, True, threading.Event(), run.watcher, scratch)
    return run


@contextmanager
def running_here(spark: SparkSession, settings: Settings, scratch: Path) -> Iterator[Run]:
    """What a stream reports that goes on in a thread of this process until the end of the block."""
    run, stop = Run(), threading.Event()
    stream = threading.Thread(target=stream_in, args=(spark, settings, False, stop, run.watcher, scratch))
    stream.start()
    try:
        yield run
    finally:
        stop.set()
        stream.join()


def with_featurizer(settings: Settings, network: CompiledNetwork) -> Settings:
    """The settings, after the network was published in their home."""
    publish_featurizer(settings.places(), network.network, network.source, network.fingerprint, kind=network.kind)
    return settings


def drop(settings: Settings, bodies: Mapping[str, bytes]) -> None:
    """Write files into a landing on disk, by their keys."""
    for key, body in bodies.items():
        path = settings.places().landing.directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)


def plan_all(settings: Settings) -> None:
    """Plan everything in the landing, as a stream leaves it that is killed before its first task."""
    home = settings.places()
    create_tables(home)
    now, featurizer = datetime.now(UTC), current_featurizer(home)
    assert featurizer is not None
    objects = tuple(list_landed(home.landing))
    write_plan(
        home,
        Plan(1, "killed", now, now.date(), home.landing.source, settings.key_pattern_in_force, featurizer, objects),
    )


def rows(settings: Settings, sql: str) -> list[dict[str, Any]]:
    """The rows of a query over the home's tables."""
    return list(run_query(connect(settings.places()), sql).to_pylist())


def outcomes(settings: Settings) -> list[dict[str, Any]]:
    """What became of every object, without what differs from run to run (batch numbers, times, versions' etags)."""
    return rows(
        settings,
        """
        SELECT split_part(source, '/landing/', 2) AS key, f.image_id, f.label, format, width, height, features, pca,
               NULL AS reason, NULL AS detail FROM features f LEFT JOIN current_projections USING (batch, source)
        UNION ALL
        SELECT split_part(source, '/landing/', 2), NULL, NULL, NULL, NULL, NULL, NULL, NULL, reason, detail FROM rejects
        ORDER BY key, image_id
        """,
    )


def photos_told(output: str) -> int:
    """The photos of all batches that a stream process told of."""
    lines = map(json.loads, output.splitlines())
    return sum(line["photos"] for line in lines if line["event"] == "batch")


@contextmanager
def stream_process(
    settings: Settings, *arguments: str, endpoint: str | None = None, master: str = "local[2,4]"
) -> Iterator[subprocess.Popen[str]]:
    """`fruits stream` as a process that leads a group; what is left of the group is killed at the end."""
    command = [
        *(sys.executable, "-m", "ops", "stream", "--home", settings.home, "--trigger", "200ms"),
        *("--settle", f"{settings.settle.total_seconds()}s", "--master", master, *arguments),
    ]
    if endpoint or settings.s3_endpoint:
        command += ["--s3-endpoint", endpoint or str(settings.s3_endpoint), "--s3-region", str(settings.s3_region)]
    pipe = subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def forget_names(home: Path) -> None:
    """Make of a home one of before names were kept."""
    (home / "state/home.json").unlink()
    for log in home.glob("*/_delta_log/*.json"):
        actions = [json.loads(line) for line in log.read_text().splitlines()]
        for action in actions:
            action.get("commitInfo", {}).pop("fruits.landings", None)
        log.write_text("\n".join(map(json.dumps, actions)))
