"""Photos arrive for minutes while storage fails and processes are killed; then every photo is looked for.

python -m benchmarks.chaos --minutes 10 [--photos-per-second 3] [--seed 7]

The service runs as it would on a real cluster: the installed project on a standalone Spark cluster, its home in an S3
server behind a proxy with bad weather. What is looked for at the end is what was dropped, by its bytes.
"""

import hashlib
import json
import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer
from PIL import Image
from rich.console import Console
from rich.table import Table

from bootstrap.weights.weights import compile_weights
from ops.query.query import connect, run_query
from ops.status.status import read_status
from store.models.registry import publish_featurizer
from store.objects.landing import list_landed
from store.settings import Settings, load_settings
from tests.support.fault_proxy import Weather, faults, set_weather
from tests.support.pictures import encoded
from tests.support.servers import REGION, made_bucket, s3_server, server_before
from tests.support.spark_cluster import Cluster, node_python, processes_of, spark_cluster

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

BUCKET = "orchard"
# Mean times between two kills of a kind. A driver needs some ten seconds to begin its first batch.
KILL_EVERY_S = {"Python worker": 15, "executor": 40, "worker": 60, "driver": 60, "driver's Java": 180, "refit": 150}
WEATHER = Weather(
    error_503=0.02, error_500=0.01, reset=0.01, stall=0.002, short_read=0.01, slow_body=0.01, landed_error=0.01
)
REFIT_EVERY_S = 30.0
RESTART_S = 1.0
NEXT_LOOK_S = 5.0
JOB_LIMIT_S = 300.0
CONF = """\
spark.executor.memory            512m
spark.executor.extraJavaOptions  -XX:TieredStopAtLevel=1 -XX:+UseSerialGC
"""


@dataclass(frozen=True)
class Dropped:
    """An object that was put into the landing, and what must become of it: a reject's reason, or features."""

    key: str
    body_sha256: str
    body_md5: str
    reason: str | None


@dataclass(frozen=True)
class Verdict:
    """What became of the dropped objects; `amiss` counts those without the one row that they should have, by why."""

    photos: int
    rejects: int
    amiss: Mapping[str, int]
    broken: tuple[str, ...]


@dataclass
class Chaos:
    """A run under way: what runs, and what has happened to it."""

    folder: Path
    cluster: Cluster
    command: list[str]
    environment: dict[str, str]
    connection: list[str]
    over: threading.Event = field(default_factory=threading.Event)
    running: "dict[str, subprocess.Popen[bytes]]" = field(default_factory=dict)
    leaders: set[int] = field(default_factory=set)
    started: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    killed: Counter[str] = field(default_factory=Counter)
    said: Counter[str] = field(default_factory=Counter)

    def start(self, name: str, *arguments: str) -> "subprocess.Popen[bytes]":
        """Start a `fruits` command; `name` is what it is counted under."""
        self.started[name] += 1
        log = self.folder / f"{name}-{self.started[name]:03}"
        with log.with_suffix(".out").open("wb") as out, log.with_suffix(".err").open("wb") as err:
            process = subprocess.Popen(
                [*self.command, *arguments, *self.connection],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.folder,
                env=self.environment,
                start_new_session=True,
            )
        self.leaders.add(process.pid)
        self.running[name] = process
        return process

    def start_stream(self, name: str, *flags: str) -> "subprocess.Popen[bytes]":
        return self.start(name, "stream", "--clean", "archive", *flags, "--master", self.cluster.url)

    def kill(self, kind: str, pid: int) -> None:
        """Kill a process, and put another worker in a worker's place."""
        with suppress(ProcessLookupError), (self.folder / "kills.log").open("a") as log:
            os.kill(pid, signal.SIGKILL)
            log.write(f"{datetime.now(UTC):%H:%M:%S.%f} {kind} {pid}\n")
            self.killed[kind] += 1
        if kind == "worker":
            self.cluster.start_worker()

    def wait_for(self, name: str) -> None:
        """Wait for a command, count how it ended, and keep what it said unless it was killed."""
        process = self.running[name]
        try:
            code = process.wait(JOB_LIMIT_S)
        except subprocess.TimeoutExpired:
            self.said[f"{name}: had to be killed, for it did not end within {JOB_LIMIT_S:.0f} s"] += 1
            process.kill()
            code = process.wait()
        del self.running[name]
        self.done[f"{name}: {'done' if code == 0 else 'killed' if code < 0 else 'failed'}"] += 1
        if code > 0:
            lines = (self.folder / f"{name}-{self.started[name]:03}.err").read_text(errors="replace").splitlines()
            self.said[f"{name}: {next((line for line in reversed(lines) if line.strip()), f'exit {code}')}"] += 1


def main(
    minutes: Annotated[float, typer.Option(help="How long photos arrive and processes die.")],
    photos_per_second: Annotated[float, typer.Option(help="How many objects are dropped.")] = 3.0,
    seed: Annotated[int, typer.Option(help="Of the photos, the kills and the weather.")] = 7,
    keep: Annotated[Path | None, typer.Option(help="An empty folder for what the processes say.")] = None,
) -> None:
    """Print what happened; exit 1 when a photo is lost, doubled or not what it should be."""
    with tempfile.TemporaryDirectory(prefix="chaos-", ignore_cleanup_errors=True) as scratch:
        table, said, verdict = run_chaos(keep or Path(scratch), minutes, photos_per_second, seed)
    console = Console()
    console.print(table)
    failures = [f"{count} times {sentence}" for sentence, count in sorted(said.items())]
    for line in (*failures, *(f"broken: {sentence}" for sentence in verdict.broken)):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    raise typer.Exit(1 if verdict.broken or any(verdict.amiss.values()) else 0)


def run_chaos(
    folder: Path, minutes: float, photos_per_second: float, seed: int
) -> tuple[Table, Mapping[str, int], Verdict]:
    """Run for some minutes, drain in peace, and look for every photo.

    Returns what happened, the last words of the commands that failed and how often each was said, and the verdict.
    """
    os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_REGION=REGION)
    network = compile_weights("untrained:7", print)
    python = node_python(folder)
    (folder / "spark-defaults.conf").write_text(CONF)
    (folder / "tmp").mkdir()
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"} | {
        "PYSPARK_PYTHON": f"{python}",
        "SPARK_CONF_DIR": f"{folder}",
        "TMPDIR": f"{folder}/tmp",
    }
    with (
        s3_server(folder) as server,
        server_before(server, "tests.support.fault_proxy", folder) as proxy,
        spark_cluster(folder) as cluster,
    ):
        s3 = made_bucket(server, BUCKET)
        # Past the proxy, for what only looks.
        settings = load_settings(home=f"s3://{BUCKET}/home", s3_endpoint=server, s3_region=REGION)
        publish_featurizer(settings.places(), network.network, network.source, network.fingerprint)
        connection = ["--home", settings.home, "--s3-endpoint", proxy, "--s3-region", REGION, "--debug"]
        chaos = Chaos(folder, cluster, [f"{python.with_name('fruits')}"], environment, connection)
        set_weather(proxy, replace(WEATHER, seed=seed))
        try:
            dropped = _storm(chaos, s3, minutes * 60, photos_per_second, seed)
            befell = faults(proxy)
            set_weather(proxy, Weather())
            chaos.start_stream("drain", "--drain")
            chaos.wait_for("drain")
        finally:
            for process in processes_of(chaos.leaders):
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
        verdict = _verdict(dropped, settings)
        return _table(chaos, minutes, befell, verdict, settings), chaos.said, verdict


def _storm(chaos: Chaos, s3: "S3Client", seconds: float, photos_per_second: float, seed: int) -> list[Dropped]:
    """Photos, kills, restarts and refits for some seconds; the stream is told to stop at the end."""
    dropped: list[Dropped] = []
    threads = [
        threading.Thread(target=_drop, args=(chaos, s3, photos_per_second, seed, dropped)),
        threading.Thread(target=_supervise, args=(chaos,)),
        threading.Thread(target=_work_on_tables, args=(chaos,)),
    ]
    for thread in threads:
        thread.start()
    try:
        _kill(chaos, seconds, random.Random(seed))
    finally:
        chaos.over.set()
        for thread in threads:
            thread.join()
    return dropped


def _drop(chaos: Chaos, s3: "S3Client", photos_per_second: float, seed: int, dropped: list[Dropped]) -> None:
    rng = np.random.default_rng(seed)
    began_s = time.monotonic()
    while not chaos.over.wait(max(0.0, began_s + len(dropped) / photos_per_second - time.monotonic())):
        drop, body = _arrival(len(dropped), rng)
        s3.put_object(Bucket=BUCKET, Key=f"home/landing/{drop.key}", Body=body)
        dropped.append(drop)


# One in 20 cannot become features, each with the only reason it can have.
_FLAW_EVERY = 20
_FLAWS = ("empty", "not_an_image", "truncated", "unsupported_format")
_FORMS = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp", "HEIF": "heic"}
_LABELS = ("kiwi", "pear tree", "grøn+æble", "🍓")


def _arrival(number: int, rng: np.random.Generator) -> tuple[Dropped, bytes]:
    flaw = _FLAWS[number // _FLAW_EVERY % len(_FLAWS)] if number % _FLAW_EVERY == 0 else None
    form = "JPEG" if flaw else list(_FORMS)[number % 7 % len(_FORMS)]
    width_px, height_px = (int(side) for side in rng.integers(100, 350, 2))
    picture = Image.fromarray(rng.integers(0, 256, (9, 12, 3), np.uint8)).resize((width_px, height_px))
    body = encoded(np.asarray(picture), "GIF" if flaw == "unsupported_format" else form)
    if flaw == "empty":
        body = b""
    elif flaw == "not_an_image":
        body = f"The upload of photo {number} was interrupted.".encode()
    elif flaw == "truncated":
        body = body[: len(body) // 2]
    key = f"{_LABELS[number % len(_LABELS)]}/{number:06}.{_FORMS[form]}"
    return Dropped(key, hashlib.sha256(body).hexdigest(), hashlib.md5(body).hexdigest(), flaw), body


def _supervise(chaos: Chaos) -> None:
    """Start the stream again whenever it ends, as a machine's supervisor does; at the end tell it to stop."""
    while not chaos.over.is_set():
        stream = chaos.start_stream("stream")
        while stream.poll() is None and not chaos.over.wait(0.1):
            pass
        if stream.poll() is None:
            stream.send_signal(signal.SIGINT)
        chaos.wait_for("stream")
        chaos.over.wait(RESTART_S)


def _work_on_tables(chaos: Chaos) -> None:
    refit = ("refit", "--reproject", "--components", "8", "--min-rows", "50", "--master", "local[1,4]")
    jobs = {"refit": refit, "maintain": ("maintain",)}
    while not chaos.over.wait(REFIT_EVERY_S):
        for name, arguments in jobs.items():
            chaos.start(name, *arguments)
            chaos.wait_for(name)


def _kill(chaos: Chaos, seconds: float, rng: random.Random) -> None:
    end_s = time.monotonic() + seconds
    due_s = {kind: time.monotonic() + rng.expovariate(1 / mean_s) for kind, mean_s in KILL_EVERY_S.items()}
    while (now_s := time.monotonic()) < end_s:
        for kind in [kind for kind, at_s in due_s.items() if at_s <= now_s]:
            if victims := sorted(_victims(chaos, kind)):
                chaos.kill(kind, rng.choice(victims))
                due_s[kind] = now_s + rng.expovariate(1 / KILL_EVERY_S[kind])
            else:
                # Not at its first breath: it shall die at any moment of its work.
                due_s[kind] = now_s + rng.uniform(0, NEXT_LOOK_S)
        time.sleep(0.1)


def _victims(chaos: Chaos, kind: str) -> list[int]:
    if kind == "Python worker":
        return chaos.cluster.python_worker_pids()
    if kind == "executor":
        return chaos.cluster.executor_pids()
    if kind == "worker":
        return chaos.cluster.worker_pids()
    process = chaos.running.get("refit" if kind == "refit" else "stream")
    if process is None or process.poll() is not None:
        return []
    if kind == "driver's Java":
        return [found.pid for found in processes_of({process.pid}) if b"SparkSubmit" in found.command]
    return [process.pid]


def _verdict(dropped: list[Dropped], settings: Settings) -> Verdict:
    places = settings.places()
    sql = "SELECT source, image_id, NULL AS reason FROM features UNION ALL SELECT source, NULL, reason FROM rejects"
    rows = defaultdict(list)
    for row in run_query(connect(places), sql).to_pylist():
        rows[row["source"]].append(row)
    expected = {places.landing.uri_of(drop.key): drop for drop in dropped}
    wrong: Counter[str] = Counter("a row of nothing that was dropped" for source in rows if source not in expected)
    for source, drop in expected.items():
        for row in rows[source]:
            if row["reason"] != drop.reason:
                wrong[f"{row['reason'] or 'features'} instead of {drop.reason or 'features'}"] += 1
            elif drop.reason is None and row["image_id"] != drop.body_sha256:
                wrong["features of other bytes"] += 1
    in_landing = [landed.etag for landed in list_landed(places.landing)]
    kept = Counter([*in_landing, *(landed.etag for landed in list_landed(places.archive))])
    return Verdict(
        photos=sum(row["reason"] is None for found in rows.values() for row in found),
        rejects=sum(row["reason"] is not None for found in rows.values() for row in found),
        amiss={
            "lost": sum(not rows[source] for source in expected),
            "doubled": sum(len(found) > 1 for found in rows.values()),
            **{f"wrong: {what}": count for what, count in wrong.items()},
            "left in the landing": len(in_landing),
            "gone from landing and archive": (Counter(drop.body_md5 for drop in dropped) - kept).total(),
        },
        broken=tuple(read_status(places, verify=True).broken or ()),
    )


def _table(chaos: Chaos, minutes: float, befell: Mapping[str, int], verdict: Verdict, settings: Settings) -> Table:
    last_batch = read_status(settings.places(), verify=False).last_batch
    table = Table("what", "how many", title="chaos", highlight=False)
    lines: list[tuple[str, object]] = [
        ("minutes", minutes),
        ("photos", verdict.photos),
        ("rejects", verdict.rejects),
        *((f"kills: {kind}", chaos.killed[kind]) for kind in KILL_EVERY_S),
        *((f"faults: {kind}", count) for kind, count in befell.items()),
        ("batches", last_batch.batch if last_batch else 0),
        ("replayed batches", sum(bool(batch["replayed"]) for batch in _reported(chaos.folder))),
        ("restarts", chaos.started["stream"] - 1),
        *sorted(chaos.done.items()),
        *verdict.amiss.items(),
        ("promises broken", len(verdict.broken)),
    ]
    for what, count in lines:
        table.add_row(what, f"{count}")
    return table


def _reported(folder: Path) -> Iterator[dict[str, object]]:
    """The batches that streams reported; a kill may have cut a line short."""
    for log in sorted([*folder.glob("stream-*.out"), *folder.glob("drain-*.out")]):
        for line in log.read_text().splitlines():
            with suppress(json.JSONDecodeError):
                event = json.loads(line)
                if event["event"] == "batch":
                    yield event


if __name__ == "__main__":
    typer.run(main)
