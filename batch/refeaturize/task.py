"""What one task of a refeaturization does: pictures of some photos, through the network, into one file."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark import TaskContext

from batch.refeaturize.pictures import copies_of, originals_of
from batch.refeaturize.selection import photo_keys
from features.featurizer import Featurizer, Recipe, cached_featurizer
from features.image import Limits, Photo
from features.isolation import IsolatedDecoder, decode_or_die
from features.rejects import Reason, Rejected
from features.task_errors import carry_errors
from features.worker_process import freeze_worker_modules
from store.home import Home
from store.state.plans import AddedFile
from store.tables.files import vectors_column, write_file
from store.tables.schemas import FEATURE_ROWS

if TYPE_CHECKING:
    from pyspark import Broadcast

COPY = "copy"
# Why a photo has no features: its copy is damaged and its original is gone. Other reasons are those of rejects.
COPY_DAMAGED = "copy_damaged"
_GONE = (Reason.MISSING, Reason.REPLACED)

Decode = Callable[[bytes, Limits, Recipe], Photo]


@dataclass(frozen=True)
class Task:
    """Photos of one day, as their rows have them; `copies` are files of that day that may hold theirs."""

    home: Home
    featurizer: str
    recipe: Recipe
    limits: Limits
    ingest_date: date
    rows: pa.Table
    copies: tuple[str, ...]


@dataclass(frozen=True)
class TaskMessage:
    """The file that a task wrote, from which places its photos came, and how many of each batch were lost, and why.

    `not_finite` is the source of a photo of which the network made no finite numbers; then nothing was written.
    """

    added: AddedFile | None
    places: Mapping[str, int]
    lost: Mapping[int, Mapping[str, int]]
    not_finite: str | None = None


@dataclass
class _Outcome:
    vectors: dict[int, NDArray[np.float32]] = field(default_factory=dict)
    places: Counter[str] = field(default_factory=Counter)
    damaged: set[int] = field(default_factory=set)
    lost: dict[int, str] = field(default_factory=dict)


class _NotFinite(Exception):
    """The network made a NaN or an infinity of the photo at this place."""


@carry_errors
def run_tasks(tasks: Iterable[Task], network: "Broadcast[bytes]") -> Iterator[TaskMessage]:
    """Run tasks one after the other in this worker.

    Replay writes new files under new names; only those in a message that reached the driver are ever committed.
    A picture that crashes or hangs the decoder ends the worker; the task's next try decodes each in a process of its
    own. Raises StorageRefused, StorageUnavailable, DecoderUnavailable: Spark tries the task again.
    """
    context = TaskContext.get()
    tried_before = context is not None and context.attemptNumber() > 0
    for task in tasks:
        featurizer = cached_featurizer(task.featurizer, lambda: network.value)
        if tried_before:
            with IsolatedDecoder(task.limits) as isolated:
                yield featurize_task(task, featurizer, isolated.decode)
        else:
            yield featurize_task(task, featurizer, decode_or_die)
    freeze_worker_modules()


def featurize_task(task: Task, featurizer: Featurizer, decode: Decode) -> TaskMessage:
    """Do one task with a featurizer and a decoder. Raises as `run_tasks`."""
    outcome = _Outcome()
    try:
        _featurize_copies(task, featurizer, decode, outcome)
        _featurize_originals(task, featurizer, decode, outcome)
    except _NotFinite as error:
        return TaskMessage(None, {}, {}, task.rows["source"][error.args[0]].as_py())
    lost: dict[int, Counter[str]] = defaultdict(Counter)
    for place, reason in outcome.lost.items():
        lost[task.rows["batch"][place].as_py()][reason] += 1
    return TaskMessage(_written(task, outcome.vectors), outcome.places, lost)


def _featurize_copies(task: Task, featurizer: Featurizer, decode: Decode, outcome: _Outcome) -> None:
    places = {key: place for place, key in enumerate(photo_keys(task.rows))}
    for place, jpeg in copies_of(task.home, task.copies, places) if task.copies else ():
        try:
            if jpeg is None:
                raise Rejected(Reason.CORRUPT, "Its file cannot be read.")
            outcome.vectors[place] = _features(featurizer, decode(jpeg, task.limits, task.recipe), place)
            outcome.places[COPY] += 1
        except Rejected:
            outcome.damaged.add(place)


def _featurize_originals(task: Task, featurizer: Featurizer, decode: Decode, outcome: _Outcome) -> None:
    rest = [place for place in range(task.rows.num_rows) if place not in outcome.vectors]
    for place, original in originals_of(task.home, task.rows, rest) if rest else ():
        try:
            if isinstance(original, Rejected):
                raise original
            outcome.vectors[place] = _features(featurizer, decode(original.body, task.limits, task.recipe), place)
            outcome.places[original.place] += 1
        except Rejected as rejected:
            is_only_copy = place in outcome.damaged and rejected.reason in _GONE
            outcome.lost[place] = COPY_DAMAGED if is_only_copy else str(rejected.reason)


def _features(featurizer: Featurizer, photo: Photo, place: int) -> NDArray[np.float32]:
    vector: NDArray[np.float32] = featurizer.features(photo.pixels[None])[0]
    if not np.isfinite(vector).all():
        raise _NotFinite(place)
    return vector


def _written(task: Task, vectors: Mapping[int, NDArray[np.float32]]) -> AddedFile | None:
    if not vectors:
        return None
    places = sorted(vectors)
    rows = task.rows.take(pa.array(places, pa.int64()))
    columns = {name: rows[name].combine_chunks() for name in rows.column_names}
    columns["featurizer"] = pa.repeat(pa.scalar(task.featurizer), len(places))
    columns["features"] = vectors_column(np.stack([vectors[place] for place in places]))
    partition = {"ingest_date": task.ingest_date.isoformat()}
    return write_file(task.home, FEATURE_ROWS, columns, partition, task.featurizer)
