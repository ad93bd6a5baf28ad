"""Landed objects brought into the tables as the stream does it, without Spark and without a network."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime

from features.featurizer import Recipe
from features.image import Limits, decode
from store.answers.batch import answers_of_batch
from store.answers.written import write_answers
from store.home import Home
from store.models.pca_models import current_models, load_model
from store.models.registry import current_featurizer
from store.objects.landing import LandedObject, archive_or_delete, key_group, list_landed
from store.objects.operations import read
from store.settings import Settings
from store.state.erasures import erasure_filter
from store.state.landing_names import remember_landing
from store.state.plans import (
    AddedFile,
    BatchCounters,
    Plan,
    Result,
    planned_batches,
    read_plan,
    read_result,
    write_plan,
    write_result,
)
from store.tables.commits import commit
from store.tables.copies import CopySpool
from store.tables.files import vectors_column, write_file, write_large_file
from store.tables.handles import committed_batch, create_copies, create_tables, open_table, tables_of_batches
from store.tables.projections import answer_columns, project_rows, write_projections
from store.tables.schemas import COPY_ROWS, FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS
from tests.support.feature_rows import feature_vectors

NONCE = "a stream"


def ingest(settings: Settings) -> None:
    """Make one batch of what landed and was not planned: JPEGs become feature rows, all else becomes rejects."""
    home = remember_landing(settings.locations())
    home.landing.create()
    create_tables(home)
    if settings.keeps_copies:
        create_copies(home)
    plans = [plan for batch in planned_batches(home) if (plan := read_plan(home, batch))]
    planned = {(landed.key, landed.etag) for plan in plans for landed in plan.objects}
    erased = erasure_filter(home)
    objects = tuple(
        landed
        for landed in list_landed(home.landing)
        if (landed.key, landed.etag) not in planned and not erased.covers(home.landing, landed)
    )
    batch, now = 1 + committed_batch(open_table(home, FEATURE_ROWS)), datetime.now(UTC)
    current = current_models(home)
    plan = Plan(
        batch=batch,
        nonce=NONCE,
        planned_at=now,
        ingest_date=now.date(),
        landing=home.landing.source,
        key_pattern=settings.key_pattern_in_force,
        featurizer=str(current_featurizer(home)),
        objects=objects,
        pca_versions=current.versions,
        served=current.serving,
        copies=settings.keeps_copies,
    )
    write_plan(home, plan)
    bodies = {landed.key: read(home.landing, landed.key) for landed in objects}
    photos = [landed for landed in objects if bodies[landed.key].startswith(b"\xff\xd8")]
    rejects = [landed for landed in objects if landed not in photos]
    adds = _write_photos(home, plan, photos, bodies) if photos else {}
    if rejects:
        reasons = {"reason": ["not_an_image"] * len(rejects), "detail": ["no picture"] * len(rejects)}
        rows = common_columns(home, plan, rejects) | reasons
        adds[REJECT_ROWS.name] = (write_file(home, REJECT_ROWS, rows, {"ingest_date": f"{plan.ingest_date}"}),)
    counters = BatchCounters(photos=len(photos), rejects={"not_an_image": len(rejects)} if rejects else {})
    write_result(home, Result(batch, NONCE, now, adds, tuple(landed.key for landed in rejects), counters))
    for table in tables_of_batches(home):
        commit(home, table, batch, NONCE, adds.get(table.name, ()))
    for landed in objects:
        archive_or_delete(
            home.landing, home.archive, landed, "delete" if settings.clean == "reduce" else settings.clean
        )


def answer_all(home: Home) -> None:
    """Write the answers of all batches, as a stream does that is told to."""
    for batch in planned_batches(home):
        write_answers(home, answers_of_batch(home, batch, read_plan(home, batch), read_result(home, batch)))


def _write_photos(
    home: Home, plan: Plan, photos: list[LandedObject], bodies: dict[str, bytes]
) -> dict[str, tuple[AddedFile, ...]]:
    count = len(photos)
    vectors = feature_vectors(count, plan.batch)
    rows = common_columns(home, plan, photos) | {
        "image_id": [hashlib.sha256(bodies[landed.key]).hexdigest() for landed in photos],
        "label": [key_group(plan.key_pattern, landed.key, "label") for landed in photos],
        "subject": [key_group(plan.key_pattern, landed.key, "subject") for landed in photos],
        "format": ["JPEG"] * count,
        "width": [320] * count,
        "height": [240] * count,
        "featurizer": [plan.featurizer] * count,
    }
    projected = [project_rows(load_model(home, version), vectors) for version in plan.pca_versions]
    answers = [answer_columns(one) for one in projected if one.meta.version == plan.served]
    features = rows | {"features": vectors_column(vectors)} | (answers[0] if answers else {})
    adds: dict[str, tuple[AddedFile, ...]] = {
        FEATURE_ROWS.name: (write_file(home, FEATURE_ROWS, features, {"ingest_date": f"{plan.ingest_date}"}),)
    }
    adds[PROJECTION_ROWS.name] = tuple(write_projections(home, rows, one, plan.ingest_date) for one in projected)
    if plan.copies:
        adds[COPY_ROWS.name] = (_write_copies(home, plan, rows, [bodies[landed.key] for landed in photos]),)
    return adds


def _write_copies(home: Home, plan: Plan, rows: dict[str, list[object]], bodies: list[bytes]) -> AddedFile:
    with CopySpool() as spool:
        for number, body in enumerate(bodies):
            copy = decode(body, Limits(2**26, 10**8), Recipe(copy_px=300)).copy
            assert copy is not None
            spool.add({name: values[number] for name, values in rows.items()}, copy)
        return write_large_file(home, COPY_ROWS, spool.parts, {"ingest_date": f"{plan.ingest_date}"})


def common_columns(home: Home, plan: Plan, objects: Sequence[LandedObject]) -> dict[str, list[object]]:
    """The columns that rows of features and of rejects both have."""
    return {
        "source": [home.landing.source_of(landed.key) for landed in objects],
        "etag": [landed.etag for landed in objects],
        "bytes": [landed.size_bytes for landed in objects],
        "arrived_at": [landed.arrived_at for landed in objects],
        "first_visible_at": [landed.visible_at for landed in objects],
        "batch": [plan.batch] * len(objects),
        "ingested_at": [plan.planned_at] * len(objects),
    }
