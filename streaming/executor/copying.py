"""What an executor task does for photos that have their rows and no copy: fetch, decode, write the copies."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import date

from pyspark import TaskContext

from features.featurizer import Recipe
from features.image import Limits
from features.isolation import IsolatedDecoder, decode_or_die
from features.rejects import Rejected
from features.task_errors import carry_errors
from features.worker_process import freeze_worker_modules
from store.home import Home
from store.objects.landing import LandedObject
from store.objects.location import StorageLocation
from store.state.plans import AddedFile
from store.tables.copies import CopySpool, PhotoRow
from store.tables.files import write_large_file
from store.tables.schemas import COPY_ROWS
from streaming.executor.fetching import ReadLocations, fetch_all
from streaming.executor.task import Decode

# The landed object holds other bytes than its rows speak of.
OTHER_BYTES = "changed"


@dataclass(frozen=True)
class UncopiedPhoto:
    """A landed object, and those of its rows that have no copy."""

    landed: LandedObject
    rows: tuple[PhotoRow, ...]


@dataclass(frozen=True)
class CopyTask:
    """Photos to copy by `recipe`; what storage does not hand out is tried again for `patience_s`."""

    home: Home
    landing: StorageLocation
    photos: tuple[UncopiedPhoto, ...]
    limits: Limits
    recipe: Recipe
    patience_s: float


@dataclass(frozen=True)
class CopyMessage:
    """The files that a task wrote, the rows whose copies are in them, and why a photo has none."""

    adds: tuple[AddedFile, ...]
    rows: tuple[PhotoRow, ...]
    failed: Mapping[LandedObject, str]


@carry_errors
def run_copy_tasks(tasks: Iterable[CopyTask]) -> Iterator[CopyMessage]:
    """Run tasks one after the other in this worker.

    Nobody sees the files before the driver commits them; replay writes others. A photo that crashes the decoder, or
    hangs it or its read, is treated as in a batch's tasks. Raises StorageUnavailable, DecoderUnavailable.
    """
    context = TaskContext.get()
    tried_before = context is not None and context.attemptNumber() > 0
    for task in tasks:
        if tried_before:
            with IsolatedDecoder(task.limits) as isolated:
                yield _run(task, isolated.decode, may_end_worker=False)
        else:
            yield _run(task, decode_or_die, may_end_worker=True)
    freeze_worker_modules()


def _run(task: CopyTask, decode: Decode, may_end_worker: bool) -> CopyMessage:
    rows_of = {photo.landed: photo.rows for photo in task.photos}
    copied: list[PhotoRow] = []
    failed: dict[LandedObject, str] = {}
    locations = ReadLocations(task.landing, task.home.archive, (), task.patience_s)
    with ExitStack() as closing:
        spools: defaultdict[date, CopySpool] = defaultdict(lambda: closing.enter_context(CopySpool()))
        for fetched in fetch_all(locations, [photo.landed for photo in task.photos], may_end_worker):
            landed = fetched.landed
            try:
                if isinstance(fetched.body, Rejected):
                    raise fetched.body
                image_id = hashlib.sha256(fetched.body).hexdigest()
                rows = [row for row in rows_of[landed] if row.image_id == image_id]
                if not rows:
                    failed[landed] = OTHER_BYTES
                    continue
                copy = decode(fetched.body, task.limits, task.recipe).copy
            except Rejected as rejected:
                failed[landed] = str(rejected.reason)
                continue
            # The driver gives recipes with copies only.
            assert copy is not None
            for row in rows:
                spools[row.ingest_date].add(asdict(row), copy)
            copied += rows
        adds = tuple(
            write_large_file(task.home, COPY_ROWS, spool.parts, {"ingest_date": day.isoformat()})
            for day, spool in spools.items()
        )
    return CopyMessage(adds, tuple(copied), failed)
