"""What one executor task does: fetch, decode, featurize, write files nobody sees until the batch is committed."""

import hashlib
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pyspark import Broadcast, TaskContext

from features.featurizer import Featurizer, Recipe, cached_featurizer
from features.image import Limits, Photo
from features.isolation import IsolatedDecoder, decode_or_die
from features.rejects import Reason, Rejected
from features.task_errors import carry_errors
from features.worker_process import freeze_worker_modules
from store.home import Home
from store.models.pca_models import cached_model
from store.objects.faults import RETRY_DEADLINE_S
from store.objects.landing import LandedObject, ObjectAccessDenied, key_group
from store.objects.location import StorageLocation, printable
from store.state.plans import AddedFile, BatchCounters, Plan
from store.tables.copies import CopySpool
from store.tables.files import vectors_column, write_file, write_large_file
from store.tables.projections import Projected, answer_columns, project_rows, write_projections
from store.tables.schemas import COPY_ROWS, FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS
from streaming.executor.fetching import Fetched, ReadLocations, fetch_all

_T = TypeVar("_T")
Decode = Callable[[bytes, Limits, Recipe], Photo]


@dataclass(frozen=True)
class Task:
    """A share of a batch; `plan` has its objects only, and the versions to project them with.

    `retried` are keys that were rejected before. What storage does not hand out is tried again for `patience_s`.
    With other `erasures` than before, versions may have lost their classifiers. Pixels for each of the plan's
    featurizers are made by its recipe; copies by the newest one's are written if the plan says so.
    """

    home: Home
    landing: StorageLocation
    plan: Plan
    limits: Limits
    retried: frozenset[str] = frozenset()
    patience_s: float = RETRY_DEADLINE_S
    erasures: tuple[int, int] = (0, 0)
    recipes: Mapping[str, Recipe] = field(default_factory=dict)


@dataclass(frozen=True)
class TaskMessage:
    """What a finished task tells the driver: the files it wrote, by table name, and what it counted."""

    adds: Mapping[str, tuple[AddedFile, ...]]
    rejected_keys: tuple[str, ...]
    counters: BatchCounters
    refusal: str = ""
    """What storage said of an object that it did not hand out, if there was one."""


@dataclass
class _Outcome:
    rows: list[dict[str, Any]] = field(default_factory=list)
    vectors: defaultdict[str, list[NDArray[np.float32]]] = field(default_factory=lambda: defaultdict(list))
    rejects: list[dict[str, Any]] = field(default_factory=list)
    rejected_keys: list[str] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)
    copies: CopySpool = field(default_factory=CopySpool)
    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def timed(self, stage: str, work: Callable[[], _T]) -> _T:
        started_at = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds[stage] += time.perf_counter() - started_at


@carry_errors
def run_tasks(tasks: Iterable[Task], networks: "Mapping[str, Broadcast[bytes]]") -> Iterator[TaskMessage]:
    """Run tasks one after the other in this worker.

    Replay writes new files under new names; only those in a message that reached the driver are ever committed.
    A photo that crashes the decoder, or hangs it or its read, ends the worker; the task's next try decodes each photo
    in a process of its own, reads each in a thread, and rejects the culprit. Raises StorageUnavailable when storage
    hands out no photo, and DecoderUnavailable: Spark tries the task again.
    """
    context = TaskContext.get()
    tried_before = context is not None and context.attemptNumber() > 0
    for task in tasks:
        featurizers = {id: cached_featurizer(id, partial(_network, networks, id)) for id in task.plan.featurizers}
        if tried_before:
            with IsolatedDecoder(task.limits) as isolated:
                yield _run(task, featurizers, isolated.decode, may_end_worker=False)
        else:
            yield _run(task, featurizers, decode_or_die, may_end_worker=True)
    freeze_worker_modules()


def _network(networks: "Mapping[str, Broadcast[bytes]]", id: str) -> bytes:
    return networks[id].value


def _run(task: Task, featurizers: Mapping[str, Featurizer], decode: Decode, may_end_worker: bool) -> TaskMessage:
    outcome = _Outcome()
    with outcome.copies:
        for fetched in _fetched(task, outcome, may_end_worker):
            try:
                _featurize(fetched, task, featurizers, decode, outcome)
            except Rejected as rejected:
                _reject(fetched, task, rejected, outcome)
        adds = outcome.timed("write", lambda: _written(task, outcome))
    refusal = next(iter(outcome.refusals), "")
    seconds = outcome.seconds
    counters = BatchCounters(
        photos=len(outcome.rows),
        rejects=dict(Counter(row["reason"] for row in outcome.rejects)),
        refused=len(outcome.refusals),
        landed_bytes=sum(landed.size_bytes for landed in task.plan.objects),
        fetch_s=seconds["fetch"],
        decode_s=seconds["decode"],
        infer_s=seconds["infer"],
        write_s=seconds["write"],
    )
    return TaskMessage(adds, tuple(outcome.rejected_keys), counters, refusal)


def _fetched(task: Task, outcome: _Outcome, may_end_worker: bool) -> Iterator[Fetched]:
    most_bytes = task.limits.max_image_bytes
    for landed in task.plan.objects:
        if landed.size_bytes > most_bytes:
            detail = f"{landed.size_bytes} bytes; the limit is {most_bytes}."
            yield Fetched(landed, Rejected(Reason.TOO_MANY_BYTES, detail))
    locations = ReadLocations(task.landing, task.home.archive, task.retried, task.patience_s)
    readable = [landed for landed in task.plan.objects if landed.size_bytes <= most_bytes]
    fetching = fetch_all(locations, readable, may_end_worker)
    while (fetched := outcome.timed("fetch", partial(next, fetching, None))) is not None:
        yield fetched


def _featurize(
    fetched: Fetched, task: Task, featurizers: Mapping[str, Featurizer], decode: Decode, outcome: _Outcome
) -> None:
    body = fetched.body
    if isinstance(body, Rejected):
        raise body
    photos = outcome.timed("decode", lambda: _decoded(body, task, decode))
    for id, featurizer in featurizers.items():
        pixels = photos[task.recipes[id]].pixels[None]
        outcome.vectors[id].append(outcome.timed("infer", partial(featurizer.features, pixels)))
    photo = photos[task.recipes[task.plan.featurizer]]
    key = fetched.landed.key
    outcome.rows.append(
        {
            **_common_columns(fetched.landed, task),
            "image_id": hashlib.sha256(body).hexdigest(),
            "label": key_group(task.plan.key_pattern, key, "label"),
            "subject": key_group(task.plan.key_pattern, key, "subject"),
            "format": photo.format,
            "width": photo.width_px,
            "height": photo.height_px,
        }
    )
    if task.plan.copies:
        # A featurizer that makes no copies is refused by the planner.
        assert photo.copy is not None
        outcome.timed("write", partial(outcome.copies.add, outcome.rows[-1], photo.copy))


def _decoded(body: bytes, task: Task, decode: Decode) -> dict[Recipe, Photo]:
    """The photo as each of the plan's featurizers takes it."""
    newest = task.recipes[task.plan.featurizer]
    photos = {newest: decode(body, task.limits, newest)}
    copy = photos[newest].copy
    for recipe in {*task.recipes.values()} - {newest}:
        # A copy gives the pixels that its photo would give.
        has_copy = copy is not None and recipe.copy_px == newest.copy_px
        photos[recipe] = decode(copy if copy is not None and has_copy else body, task.limits, recipe)
    return photos


def _reject(fetched: Fetched, task: Task, rejected: Rejected, outcome: _Outcome) -> None:
    common = _common_columns(fetched.landed, task)
    outcome.rejects.append({**common, "reason": str(rejected.reason), "detail": printable(rejected.detail)})
    outcome.rejected_keys.append(fetched.landed.key)
    # A retried photo that is refused again says nothing of a permission that was lost.
    if isinstance(rejected, ObjectAccessDenied) and fetched.landed.key not in task.retried:
        outcome.refusals.append(rejected.words)


def _common_columns(landed: LandedObject, task: Task) -> dict[str, Any]:
    return {
        "source": task.landing.source_of(landed.key),
        "etag": landed.etag,
        "bytes": landed.size_bytes,
        "arrived_at": landed.arrived_at,
        "first_visible_at": landed.visible_at,
        "batch": task.plan.batch,
    }


def _written(task: Task, outcome: _Outcome) -> dict[str, tuple[AddedFile, ...]]:
    partition = {"ingest_date": task.plan.ingest_date.isoformat()}
    ingested_at = datetime.now(UTC)
    adds: dict[str, tuple[AddedFile, ...]] = {}
    if outcome.rows:
        rows = _columns(outcome.rows) | {"ingested_at": [ingested_at] * len(outcome.rows)}
        models = [cached_model(task.home, version, task.erasures) for version in task.plan.pca_versions]
        of_each: list[tuple[str, dict[str, Any], NDArray[np.float32], list[Projected]]] = []
        for id in task.plan.featurizers:
            vectors = np.concatenate(outcome.vectors[id])
            projected = [project_rows(model, vectors) for model in models if model.meta.featurizer == id]
            of_each.append((id, rows | {"featurizer": [id] * len(outcome.rows)}, vectors, projected))
        served = (one for *_, projected in of_each for one in projected if one.meta.version == task.plan.served)
        answers = next(map(answer_columns, served), {})
        adds[FEATURE_ROWS.name] = tuple(
            write_file(task.home, FEATURE_ROWS, kept | {"features": vectors_column(vectors)} | answers, partition, id)
            for id, kept, vectors, _ in of_each
        )
        adds[PROJECTION_ROWS.name] = tuple(
            write_projections(task.home, kept, one, task.plan.ingest_date)
            for _, kept, _, projected in of_each
            for one in projected
        )
        if task.plan.copies:
            adds[COPY_ROWS.name] = (write_large_file(task.home, COPY_ROWS, outcome.copies.parts, partition),)
    if outcome.rejects:
        rows = _columns(outcome.rejects) | {"ingested_at": [ingested_at] * len(outcome.rejects)}
        adds[REJECT_ROWS.name] = (write_file(task.home, REJECT_ROWS, rows, partition),)
    return adds


def _columns(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {name: [row[name] for row in rows] for name in rows[0]}
