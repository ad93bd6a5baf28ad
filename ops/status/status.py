"""The status of a home: its stream, its backlog, its pace, its models, its tables, and whether its invariants hold."""

import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Literal

import pyarrow.compute as pc
from deltalake import DeltaTable

from batch.maintain.compaction import BIG_ENOUGH_BYTES, groups_to_compact
from ops.query.query import connect
from ops.share import Share, share_of
from ops.status.answers import count_answers, count_unknown
from ops.status.queue_status import QueueStatus, read_queue_status
from ops.status.verification import check_invariants, count_rows
from store.answers.progress import answered_through
from store.home import Home
from store.models.pca_models import Current, current_models, describe_model, featurizers_in_use
from store.models.registry import current_featurizer, describe_featurizer
from store.objects.faults import retry_storage
from store.objects.landing import LandedObject, list_pages
from store.objects.landing_files import SkippedFiles
from store.setting_fields import SettingFields
from store.state.heartbeat import FinishedBatch, Heartbeat, is_alive, read_heartbeat
from store.state.plans import planned_batches, read_plans, read_result
from store.tables.files import DataFile, data_files
from store.tables.handles import OpenTables, open_tables
from store.tables.lacking import lacking
from store.tables.photo_counts import PhotosOfNetwork, count_photos, photos_of_network
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS
from streaming.discovery.arrivals import Backlog
from streaming.discovery.processed_index import ProcessedIndex, identity
from streaming.discovery.snapshot import load_processed_index
from streaming.discovery.visibility import first_seen, not_seen_at
from streaming.planner import only_new_since

# With a trigger of 2 s a table gets up to 1800 files an hour, which stay until the hour is over. With fewer than these,
# it is not worth finding out which of them maintenance would compact.
MANY_SMALL_FILES = 500
NONE = share_of(0, 0)


@dataclass(frozen=True)
class TableStatus:
    """What one table holds; a file is small if maintenance would compact it."""

    name: str
    rows: int
    files: int
    bytes: int
    last_batch: int
    small_files: int


@dataclass(frozen=True)
class LastBatch:
    """The newest batch with a result, and its seconds by stage; a day later only its number is known."""

    batch: int
    finished_at: datetime | None
    photos: int | None
    rejects: int | None
    stages_s: Mapping[str, float]


@dataclass(frozen=True)
class Switch:
    """The PCA version that is served, the next one, and how many committed batches still lack that one."""

    serving: int | None
    next: int | None
    lacking_batches: int


@dataclass(frozen=True)
class ModelStatus:
    """The served or the next PCA version: fitted on `rows`; `rows_since` are in files committed after the fit.

    `labels` is how many labels it names; `calibrated` says that its confidences were fitted to photos that came later.
    """

    version: int
    featurizer: str
    fitted_at: datetime
    components: int
    explained: float
    rows: int
    rows_since: int
    parent: int | None
    drift_rad: float | None
    labels: int = 0
    calibrated: bool = False


@dataclass(frozen=True)
class StreamStatus:
    """The newest stream; a silent one was killed, or cannot reach storage; `error` is the kind that it ended with.

    `moved_at` is when it last listed the landing or committed a batch; None for a stream of an earlier version.
    """

    state: Literal["running", "stopped", "silent"]
    holder: str
    started_at: datetime
    last_sign_at: datetime
    moved_at: datetime | None = None
    trigger_s: float | None = None
    clean: str | None = None
    error: str | None = None


@dataclass(frozen=True)
class Pace:
    """How many photos a second a running stream commits, over so many seconds; None when that is not known."""

    photos_per_s: float | None
    window_s: float


@dataclass(frozen=True)
class Today:
    """What was committed of the plans of this day (UTC)."""

    ingest_date: date
    photos: int
    rejects: int
    reasons: Mapping[str, int]


@dataclass(frozen=True)
class Status:
    """Everything that `fruits status` shows; `broken` is None when the invariants were not checked.

    `backlog` is what has no rows yet, planned or not: as the stream said at `backlog_as_of`, or as a listing found it.
    `passed_over` counts by kind what the landing's listing skips on purpose; there are examples only if this call
    listed it. `uncleared` photos have their rows, and the stream could not delete or archive them; of those in
    `uncopied`, counted by reason, it could make no copy. `accuracy` counts the answers to photos with a label since
    `answers_since`; `unknown` those photos of today that the served version names and finds stranger than
    `unknown_above`. `answers_behind` committed batches have no answers for the app yet; None where none are written.
    `featurizer` is the newest one, and the views show rows of the `served_featurizer`. `networks` are those in use if
    there are several, or if photos lack a row of the only one.
    """

    home: str
    looked_at: datetime
    stream: StreamStatus | None
    last_batch: LastBatch | None
    unfinished_batches: list[int]
    backlog: Backlog
    backlog_as_of: datetime
    pace: Pace
    today: Today
    queue: QueueStatus | None
    featurizer: str | None
    weights: str | None
    pca: Switch
    models: list[ModelStatus]
    tables: list[TableStatus]
    compactable_files: int
    broken: list[str] | None
    passed_over: Mapping[str, int] = field(default_factory=dict)
    passed_over_examples: Mapping[str, str] = field(default_factory=dict)
    uncleared: int = 0
    uncopied: Mapping[str, int] = field(default_factory=dict)
    answers_since: date | None = None
    accuracy: Share = NONE
    unknown: Share = NONE
    unknown_above: float = SettingFields.unknown_novelty
    answers_behind: int | None = None
    served_featurizer: str | None = None
    networks: list[PhotosOfNetwork] = field(default_factory=list)


def read_status(
    home: Home,
    verify: bool,
    queue: str | None = None,
    count: bool = False,
    tables: OpenTables | None = None,
    unknown_above: float = SettingFields.unknown_novelty,
) -> Status:
    """The status of a home, read-only.

    A running stream says what waits. Without one, with `verify` and with `count`, the landing is listed and compared
    with everything that was ever planned. `queue` is the URL to ask about where no stream named one; `tables` given
    again have their logs read once. Photos of a novelty above `unknown_above` are unknown. Raises StateDamaged,
    StorageUnavailable.
    """
    looked_at = datetime.now(UTC)
    heartbeat = read_heartbeat(home)
    stream = _stream(heartbeat, looked_at)
    is_running = stream is not None and stream.state == "running"
    vitals = heartbeat.vitals if heartbeat else None
    running_vitals = vitals if is_running else None
    tables = tables or OpenTables(home)
    states = tables.look_at_all()
    files = {name: data_files(handle) for name, (handle, _) in states.items()}
    committed = min(last_batch for _, last_batch in states.values())
    unfinished = planned_batches(home, after=committed)
    plans = list(read_plans(home, after=committed))

    waiting = running_vitals.waiting if running_vitals and not (verify or count) else None
    broken: list[str] | None = None
    passed_over = SkippedFiles()
    if waiting is not None:
        passed_over.counts.update(vitals.passed_over if vitals else {})
        stated = Backlog(waiting.files, waiting.bytes, waiting.oldest_arrived_at, waiting.at_least)
        # A plan that was made since then holds what the stream counted as waiting.
        plans = [plan for plan in plans if plan.planned_at <= waiting.told_at]
        backlog = _sum([stated, *(_backlog_of(plan.objects) for plan in plans)])
    else:
        with tempfile.TemporaryDirectory() as folder:
            index = load_processed_index(home, Path(folder, "index.sqlite"))
            unplanned = _unplanned(home, index, passed_over)
            backlog = _sum(map(_backlog_of, (*(plan.objects for plan in plans), *unplanned)))
            facts, days = index.info, index.days
            index.close()
        if verify:
            kept = [batch for batch in planned_batches(home) if facts.snapshot < batch <= committed]
            broken = check_invariants(home, committed, kept, days, facts)

    table_statuses = [
        TableStatus(
            name=name,
            rows=sum(file.rows for file in files[name]),
            files=len(files[name]),
            bytes=sum(file.size_bytes for file in files[name]),
            last_batch=last_batch,
            small_files=sum(file.size_bytes < BIG_ENOUGH_BYTES for file in files[name]),
        )
        for name, (_, last_batch) in states.items()
    ]
    are_many = sum(table.small_files for table in table_statuses) >= MANY_SMALL_FILES
    featurizer, current = current_featurizer(home), current_models(home)
    url = (vitals.settings.queue if vitals else None) or queue
    messages, pace = None, Pace(None, 0.0)
    if running_vitals:
        messages = running_vitals.messages
        if window_s := running_vitals.window_s:
            pace = Pace(running_vitals.photos / max(window_s, 1.0), window_s)
    today = looked_at.date()
    # Without a served version nothing was ever answered, and no file needs to be read.
    answers = count_answers(home, files[FEATURE_ROWS.name] if current.serving else (), current.featurizer, today)
    return Status(
        home=home.root.uri,
        looked_at=looked_at,
        stream=stream,
        last_batch=_last_batch(home, committed, unfinished, vitals.last_batch if vitals else None),
        unfinished_batches=unfinished,
        backlog=backlog,
        backlog_as_of=waiting.told_at if waiting else looked_at,
        pace=pace,
        today=_today({name: handle for name, (handle, _) in states.items()}, today),
        queue=read_queue_status(url, home.landing.s3_region, messages) if url else None,
        featurizer=featurizer,
        weights=describe_featurizer(home, featurizer).source if featurizer else None,
        pca=Switch(current.serving, current.next, _lacking_batches(home, current.next, committed)),
        models=[_model_status(home, version, files[FEATURE_ROWS.name]) for version in current.versions],
        tables=table_statuses,
        compactable_files=sum(len(group.files) for group in groups_to_compact(home, looked_at)) if are_many else 0,
        broken=broken,
        passed_over=dict(passed_over.counts),
        passed_over_examples=dict(passed_over.examples),
        uncleared=vitals.uncleared if vitals else 0,
        uncopied=dict(vitals.uncopied) if vitals else {},
        answers_since=answers.since,
        accuracy=answers.accuracy,
        unknown=count_unknown(home, files[PROJECTION_ROWS.name], current.serving, today, unknown_above),
        unknown_above=unknown_above,
        answers_behind=_answers_behind(home, committed),
        served_featurizer=current.featurizer,
        networks=_networks(home, featurizer, current),
    )


def _networks(home: Home, newest: str | None, current: Current) -> list[PhotosOfNetwork]:
    if newest is None:
        return []
    in_use = featurizers_in_use(home, newest, current)
    if len(in_use) == 1 and not lacking(home, open_tables(home), newest):
        return []
    return [photos_of_network(home, id) for id in in_use]


def _stream(heartbeat: Heartbeat | None, now: datetime) -> StreamStatus | None:
    if heartbeat is None:
        return None
    state: Literal["running", "stopped", "silent"] = "running" if is_alive(heartbeat, now) else "silent"
    vitals, moved_at = heartbeat.vitals, None
    if vitals is not None:
        last_listing = vitals.waiting.told_at if vitals.waiting else heartbeat.started_at
        last_commit = vitals.last_batch.finished_at if vitals.last_batch else heartbeat.started_at
        moved_at = max(heartbeat.started_at, last_listing, last_commit)
    return StreamStatus(
        state="stopped" if heartbeat.ended_at is not None else state,
        holder=heartbeat.holder,
        started_at=heartbeat.started_at,
        last_sign_at=heartbeat.beat_at,
        moved_at=moved_at,
        trigger_s=vitals.settings.trigger_s if vitals else None,
        clean=vitals.settings.clean if vitals else None,
        error=heartbeat.error,
    )


def _answers_behind(home: Home, committed: int) -> int | None:
    through = answered_through(home)
    return None if through is None else max(0, committed - through)


def _today(tables: Mapping[str, DeltaTable | None], today: date) -> Today:
    photos, reject_table = count_photos(tables[FEATURE_ROWS.name], today.__eq__), tables[REJECT_ROWS.name]
    rejects = sum(file.rows for file in data_files(reject_table) if file.partition["ingest_date"] == today)
    reasons = Counter[str]()
    if reject_table is not None and rejects:
        scanner = reject_table.to_pyarrow_dataset().scanner(["reason"], filter=pc.field("ingest_date") == today)
        reasons.update(retry_storage(f"read {REJECT_ROWS.name}", scanner.to_table)["reason"].to_pylist())
    return Today(today, photos, rejects, dict(reasons.most_common()))


def _model_status(home: Home, version: int, feature_files: Iterable[DataFile]) -> ModelStatus:
    meta = describe_model(home, version)
    return ModelStatus(
        version=version,
        featurizer=meta.featurizer,
        fitted_at=meta.fitted_at,
        components=meta.components,
        explained=meta.explained,
        rows=meta.rows,
        rows_since=sum(
            file.rows for file in feature_files if file.committed_at > meta.fitted_at and file.may_hold(meta.featurizer)
        ),
        parent=meta.parent,
        drift_rad=meta.drift_rad,
        labels=meta.labels,
        calibrated=meta.calibrated,
    )


def _lacking_batches(home: Home, version: int | None, committed: int) -> int:
    """How many committed batches have no projections in a version."""
    if version is None or None in open_tables(home).handles.values():
        return 0
    featurizer = describe_model(home, version).featurizer
    return count_rows(
        connect(home),
        f"SELECT DISTINCT batch FROM {FEATURE_ROWS.name} WHERE featurizer = '{featurizer}' AND batch <= {committed} "
        f"EXCEPT SELECT batch FROM {PROJECTION_ROWS.name} WHERE pca_version = {version}",
    )


def _last_batch(home: Home, committed: int, unfinished: list[int], stated: FinishedBatch | None) -> LastBatch | None:
    for batch in (*reversed(unfinished), committed):
        if not batch or (result := read_result(home, batch)) is None:
            continue
        counters = result.counters
        stages_s = {"work": counters.wall_s, "fetch": counters.fetch_s, "decode": counters.decode_s}
        stages_s |= {"infer": counters.infer_s, "write": counters.write_s}
        if stated and stated.batch == batch:
            stages_s = dict(stated.stages_s)
        stages_s = {stage: round(seconds, 3) for stage, seconds in stages_s.items()}
        return LastBatch(batch, result.finished_at, counters.photos, sum(counters.rejects.values()), stages_s)
    return LastBatch(committed, None, None, None, {}) if committed else None


def _backlog_of(objects: Collection[LandedObject]) -> Backlog:
    oldest = min((landed.visible_at for landed in objects), default=None)
    return Backlog(len(objects), sum(landed.size_bytes for landed in objects), oldest)


def _sum(backlogs: Iterable[Backlog]) -> Backlog:
    each = list(backlogs)
    oldest = min((one.oldest_arrived_at for one in each if one.oldest_arrived_at), default=None)
    at_least = any(one.at_least for one in each)
    return Backlog(sum(one.files for one in each), sum(one.bytes for one in each), oldest, at_least)


def _unplanned(home: Home, index: ProcessedIndex, passed_over: SkippedFiles) -> Iterator[list[LandedObject]]:
    """The objects of the landing that no batch holds, by page."""
    since, bound = only_new_since(home), not_seen_at(home)
    for page in list_pages(home.landing, home.own_locations, passed_over):
        known = index.entries([identity(home.landing, landed) for landed in page])
        yield [
            first_seen(landed, bound)
            for landed in page
            if not ((entry := known.get(identity(home.landing, landed))) and entry.covers(landed))
            and (since is None or landed.visible_at >= since)
        ]
