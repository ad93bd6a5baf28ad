"""What finding new photos costs as history grows: seconds and requests a batch, and what a restart takes.

python -m benchmarks.discovery [--most 1000000] [--batches 10] [--messages 4000]

History is made of batches of 1,000 or 10,000 objects, as the stream leaves them: plans, results, tables. Their rows are
rejects, which discovery reads like features and which need no vectors. A batch here is everything but the work on its
photos: finding, planning, the result, three commits. S3 and SQS are a moto server; listings of the landing are answered
by a server that shows a million objects without having them.
"""

import json
import multiprocessing
import os
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import boto3
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.rivals.job import peak_mb
from store.home import Home
from store.models.registry import publish_featurizer
from store.objects.landing import LandedObject, list_pages
from store.settings import load_settings
from store.state.plans import BatchCounters, Plan, Result, read_plan, write_plan, write_result
from store.tables.commits import commit
from store.tables.files import write_file
from store.tables.handles import OpenTables, create_tables
from store.tables.schemas import REJECT_ROWS, TABLES
from streaming.cleaning.cleaner import Cleaner
from streaming.discovery.queue import Queue
from streaming.discovery.snapshot import load_processed_index, write_snapshot
from streaming.planner import Planner
from tests.support.created import created
from tests.support.ingested import common_columns
from tests.support.landing_server import SIZE_BYTES, Shown, arrived_at, etag, key, requests, show
from tests.support.servers import REGION, made_bucket, s3_server, server_before

if TYPE_CHECKING:
    from types_boto3_sqs import SQSClient

BUCKET = "fruits"
LEAST_A_BATCH = 1000
BATCHES_A_HISTORY = 100
NEW_A_BATCH = 100
# Past days, so that the tables have as many partitions as a history has.
FIRST_DAY = date(2026, 1, 1)
OBJECTS_A_DAY = 50_000
TRIGGER_S = 0.5
KEEP_BATCHES = 2
MOST_SENT_AHEAD = 100

console = Console(width=170)


@dataclass(frozen=True)
class Measured:
    """What one run of the planner cost; seconds on the clock."""

    way: str
    history: int
    start_s: float
    start_requests: int
    peak_mb: float
    batch_s: float
    longest_look_s: float
    requests_a_batch: float
    listing_requests: int
    listing_s: float


def main(
    most: Annotated[int, typer.Option(help="The longest history, in objects.")] = 1_000_000,
    batches: Annotated[int, typer.Option(help="How many new batches of 100 objects are taken each time.")] = 10,
    messages: Annotated[int, typer.Option(help="How many messages to take from a queue for their pace.")] = 4000,
) -> None:
    """Print the tables of docs/benchmarks.md, section "Finding what is new"."""
    os.environ.update(AWS_ACCESS_KEY_ID="benchmark", AWS_SECRET_ACCESS_KEY="benchmark", AWS_REGION=REGION)
    with (
        tempfile.TemporaryDirectory() as folder,
        s3_server(Path(folder)) as moto,
        server_before(moto, "tests.support.landing_server", Path(folder)) as endpoint,
    ):
        made_bucket(moto, BUCKET)
        queue = _sqs(endpoint).create_queue(QueueName="arrivals")["QueueUrl"].replace(moto, endpoint)
        home = _home(endpoint)
        create_tables(home)
        publish_featurizer(home, b"no network: no photo is looked at", "a benchmark", "a benchmark")
        found, done, history = [], 0, LEAST_A_BATCH
        while history <= most:
            done = _grow(home, done, history)
            for way in ("keep", "archive", "queue"):
                # Kept photos are listed with a pause of four times as long: each batch waits for it.
                taken = min(batches, KEEP_BATCHES) if way == "keep" else batches
                # In a process of its own, whose memory is the planner's.
                with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
                    found.append(pool.submit(_measure, endpoint, queue, way, history, done, taken).result())
                done += taken
            history *= 10
        table = Table(*(name.replace("_", " ") for name in Measured.__annotations__), title="Finding what is new")
        for one in found:
            table.add_row(*(f"{value:.2f}" if isinstance(value, float) else f"{value}" for value in astuple(one)))
        if found:
            console.print(table)
        rate = _messages_a_second(moto, home, messages)
        console.print(f"{messages:,} messages received, settled and deleted: {rate:.0f} a second.", highlight=False)


def _sqs(endpoint: str) -> "SQSClient":
    return boto3.client("sqs", endpoint_url=endpoint, region_name=REGION)


def _send(client: "SQSClient", queue: str, prefix: str, numbers: Sequence[int]) -> None:
    """Tell the queue of up to ten new objects."""
    entries = [{"Id": f"{n}", "MessageBody": _message(prefix, n)} for n in numbers]
    client.send_message_batch(QueueUrl=queue, Entries=entries)  # type: ignore[arg-type]


def _home(endpoint: str) -> Home:
    return load_settings(home=f"s3://{BUCKET}/home", s3_endpoint=endpoint, s3_region=REGION).places()


def _grow(home: Home, done: int, history: int) -> int:
    """Add batches until there are `history` objects, then a snapshot as the stream writes them."""
    size = max(LEAST_A_BATCH, history // BATCHES_A_HISTORY)
    tables = OpenTables(home)
    starts = range(history // 10 if history > LEAST_A_BATCH else 0, history, size)
    for start in track(starts, f"history of {history:,}", console=Console(stderr=True)):
        done += 1
        day = FIRST_DAY + timedelta(days=start // OBJECTS_A_DAY)
        write_plan(home, _plan(home, done, range(start, start + size), day))
        _finish(home, tables, done)
    with tempfile.TemporaryDirectory() as folder:
        seen = load_processed_index(home, Path(folder, "seen.sqlite"))
        write_snapshot(home, seen)
        seen.close()
    return done


def _plan(home: Home, batch: int, numbers: range, day: date) -> Plan:
    objects = tuple(LandedObject(key(n), SIZE_BYTES, etag(n), arrived_at(n)) for n in numbers)
    now = datetime.now(UTC)
    return Plan(batch, "benchmark", now, day, home.landing.uri, "", "unused", objects)


def _finish(home: Home, tables: OpenTables, batch: int) -> tuple[Plan, Result]:
    """What the driver does after the tasks: the result, three commits."""
    plan = read_plan(home, batch)
    assert plan is not None
    rows = common_columns(home, plan, plan.objects)
    rows |= {"reason": ["missing"] * len(plan.objects), "detail": [""] * len(plan.objects)}
    adds = {REJECT_ROWS.name: (write_file(home, REJECT_ROWS, rows, {"ingest_date": f"{plan.ingest_date}"}),)}
    counters = BatchCounters(rejects={"missing": len(plan.objects)})
    result = Result(batch, plan.nonce, datetime.now(UTC), adds, tuple(landed.key for landed in plan.objects), counters)
    write_result(home, result)
    for table in TABLES:
        commit(home, table, batch, plan.nonce, adds.get(table.name, ()), tables)
    return plan, result


def _measure(endpoint: str, queue: str, way: str, history: int, done: int, batches: int) -> Measured:
    """Start a planner and take new batches with it."""
    home = _home(endpoint)
    # New objects go behind all that any run before has used.
    first_new = 10 * history + done * NEW_A_BATCH
    prefix = home.landing.bucket_and_prefix[1] + "/"
    shown = Shown(prefix, history if way == "keep" else 0, first_new)
    show(endpoint, shown)
    before, began_s = requests(endpoint), time.perf_counter()
    deque(list_pages(home.landing), maxlen=0)
    listing_s, listing_requests = time.perf_counter() - began_s, _since(endpoint, before)
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings(
            home=home.root.uri, max_files=10_000, max_bytes=2**40, queue=queue if way == "queue" else None, settle="0s"
        )
        before, began_s = requests(endpoint), time.perf_counter()
        planner = Planner(home, settings, False, "benchmark", Cleaner(home, settings), Path(folder))
        start_s, start_requests = time.perf_counter() - began_s, _since(endpoint, before)
        looks = []
        tables = OpenTables(home)
        before, began_s, batch_s = requests(endpoint), time.perf_counter(), 0.0
        for number in range(batches):
            numbers = range(first_new + number * NEW_A_BATCH, first_new + (number + 1) * NEW_A_BATCH)
            _arrive(endpoint, queue, way, shown, numbers)
            arrived_s = time.perf_counter()
            while True:
                look_s = time.perf_counter()
                planner.next_batch()
                looks.append(time.perf_counter() - look_s)
                if planner.newest > done + number:
                    break
                time.sleep(TRIGGER_S)
            planner.committed(*_finish(home, tables, planner.newest))
            batch_s += time.perf_counter() - arrived_s
        total = _since(endpoint, before)
        planner.close()
    return Measured(
        way=way,
        history=history,
        start_s=start_s,
        start_requests=start_requests,
        peak_mb=peak_mb(),
        batch_s=batch_s / batches,
        longest_look_s=max(looks),
        requests_a_batch=total / batches,
        listing_requests=listing_requests,
        listing_s=listing_s,
    )


def _messages_a_second(moto: str, home: Home, count: int) -> float:
    """The pace of a queue's messages, from the first one sent until the last one is deleted."""
    client = _sqs(moto)
    url = client.create_queue(QueueName="pace")["QueueUrl"]
    prefix = home.landing.bucket_and_prefix[1] + "/"
    queue = Queue(url, home.landing, REGION, wait_s=1)
    taken = 0

    def send() -> None:
        # This server looks at every message for each receive, so few are let pile up.
        for start in range(0, count, 10):
            while start - taken > MOST_SENT_AHEAD:
                time.sleep(0.001)
            _send(client, url, prefix, range(start, start + 10))

    began_s = time.perf_counter()
    queue.start()
    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        while taken < count:
            time.sleep(0.001)
            arrivals = queue.take(count)
            queue.settled(arrivals)
            taken += len(arrivals)
        sending.result()
    queue.close()
    return count / (time.perf_counter() - began_s)


def _since(endpoint: str, before: Counter[str]) -> int:
    return (requests(endpoint) - before).total()


def _arrive(endpoint: str, queue: str, way: str, shown: Shown, numbers: range) -> None:
    if way != "queue":
        # Photos that were cleared away are gone; those that are kept stay and come first, as older names do.
        first, old = (shown.new_first, shown.old) if way == "keep" else (numbers[0], 0)
        show(endpoint, Shown(shown.prefix, old, first, numbers[-1] + 1 - first))
        return
    client = _sqs(endpoint)
    for start in range(0, len(numbers), 10):
        _send(client, queue, shown.prefix, numbers[start : start + 10])


def _message(prefix: str, number: int) -> str:
    record = created(BUCKET, prefix + key(number), SIZE_BYTES, etag(number), arrived_at(number))
    return json.dumps({"Records": [record]})


if __name__ == "__main__":
    typer.run(main)
