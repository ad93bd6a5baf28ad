"""Who asks to be forgotten is nowhere any more, whatever else is at work, and nobody else misses anything."""

import io
import json
import os
import threading
import time
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter
from pyspark.sql import SparkSession
from typer.testing import CliRunner

import batch.erase.erase as erase_module
import batch.erase.rows as rows_module
from batch.erase.certificates import Certificate, read_certificate
from batch.erase.erase import ErasureRequest, count_erasable, erase
from batch.erase.rows import ErasedRows, erase_rows
from batch.erase.selection import Selection
from batch.labelling.corrections import correction_of
from batch.labelling.label import label_photos
from batch.maintain.compaction import compact, groups_to_compact
from batch.maintain.maintain import maintain
from batch.maintain.retention import Retention
from batch.refit.refit import RefitOptions, refit
from batch.reproject import reproject
from features.errors import InvalidSetting
from ops.cli.main import app
from ops.status.status import read_status
from store.answers.answer import parse_answer
from store.errors import HomeInUse, StateDamaged
from store.home import Home
from store.objects.landing import LandedObject, archived_key, archived_name, list_landed
from store.objects.operations import keys_below, overwrite, read
from store.settings import Settings, load_settings
from store.state.erasures import Erasures, Kind, begin_erasure, digest_of, erasure_filter, finish_erasure, read_erasures
from store.state.plans import Plan, plan_key, read_plan, read_result, write_plan
from store.tables.commits import append_once
from store.tables.handles import open_table
from store.tables.schemas import COPY_ROWS, FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS, Table
from streaming.micro_batch import MicroBatches
from tests.support.feature_rows import serve_a_model
from tests.support.ingested import answer_all, ingest
from tests.support.pictures import jpeg, text_file
from tests.support.stream_run import Run, forget_names, rows, stream_process

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

PATTERN = r"^(?P<subject>[^/]+)/(?P<label>[^/]+)/"
ANNA, BEN = "anna-4711", "ben-0815"


@pytest.fixture(params=["disk", "S3"])
def settings(request: pytest.FixtureRequest) -> Settings:
    """A home whose keys tell subjects; on S3 its bucket keeps every version."""
    flags = {"key_pattern": PATTERN, "clean": "archive"}
    if request.param == "disk":
        made: Settings = request.getfixturevalue("local_settings")(**flags)
        return made
    bucket: str = request.getfixturevalue("bucket")
    s3: S3Client = request.getfixturevalue("s3")
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    on_s3: Settings = request.getfixturevalue("s3_settings")(**flags)
    return on_s3


@pytest.fixture
def on_disk(local_settings: MakeSettings) -> Settings:
    return local_settings(key_pattern=PATTERN)


def _drop(settings: Settings, keys: dict[str, bytes]) -> None:
    for key, body in keys.items():
        overwrite(settings.places().landing, key, body)


def _erase(settings: Settings, request: ErasureRequest) -> Certificate:
    return erase(settings.places(), request, print, lambda _, __: None, copy_s=0)


def _subject(name: str = ANNA) -> ErasureRequest:
    return ErasureRequest("subject", name, (PATTERN,))


def _everything(home: Home) -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of every file of a home, every version of it on S3; parquet files without compression."""
    for name, body in _files(home):
        yield name, name.encode() + b"\0" + body
        if name.endswith(".parquet"):
            plain = io.BytesIO()
            pq.write_table(pq.read_table(io.BytesIO(body)), plain, compression="none", use_dictionary=False)
            yield name, plain.getvalue()


def _files(home: Home) -> Iterator[tuple[str, bytes]]:
    if home.root.is_local:
        for path in sorted(home.root.directory.rglob("*")):
            name = str(path.relative_to(home.root.directory))
            yield name, path.read_bytes() if path.is_file() else b""
        return
    import boto3

    s3 = boto3.client("s3", endpoint_url=home.root.s3_endpoint, region_name=home.root.s3_region)
    bucket, _ = home.root.bucket_and_prefix
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        for mark in page.get("DeleteMarkers", []):
            yield mark["Key"], b""
        for version in page.get("Versions", []):
            found = s3.get_object(Bucket=bucket, Key=version["Key"], VersionId=version["VersionId"])
            yield version["Key"], found["Body"].read()


def _where(home: Home, *texts: str) -> set[str]:
    wanted = [text.encode() for text in texts]
    return {name for name, body in _everything(home) if any(text in body for text in wanted)}


@pytest.mark.parametrize("settings", ["disk", pytest.param("S3", marks=pytest.mark.processes)], indirect=True)
def test_a_person_is_in_no_byte_of_the_home_and_others_miss_nothing(settings: Settings, drain: Drain) -> None:
    home = settings.places()
    serve_a_model(home)
    _drop(settings, {f"{ANNA}/kiwi/{n}.jpg": jpeg(n) for n in range(2)} | {f"{ANNA}/kiwi/notes.jpg": text_file()})
    _drop(settings, {f"{BEN}/kiwi/{n}.jpg": jpeg(n + 10) for n in range(2)} | {f"{BEN}/kiwi/notes.jpg": text_file()})
    # The names of their answers tell nothing.
    _drop(settings, {f"{name}/kiwi.json/notes.jpg": text_file() for name in (ANNA, BEN)})
    ingest(settings)
    _drop(settings, {f"{ANNA}/lime/0.jpg": jpeg(20), f"{BEN}/lime/0.jpg": jpeg(21)})
    ingest(settings)
    answer_all(home)
    his_answers = {
        key: read(home.answers, key) for key in keys_below(home.answers) if ANNA.encode() not in read(home.answers, key)
    }
    [hers] = rows(settings, f"SELECT image_id FROM features WHERE source LIKE '%{ANNA}/lime%'")
    his = rows(settings, f"SELECT image_id FROM features WHERE source LIKE '%{BEN}/lime%'")[0]["image_id"]
    corrections = [correction_of(image, "plum", "suspect") for image in (hers["image_id"], his)]
    label_photos(home, corrections, None, print)
    before = rows(settings, f"SELECT * FROM features WHERE subject = '{BEN}' ORDER BY source")
    rejected = rows(settings, f"SELECT * FROM rejects WHERE source LIKE '%{BEN}%'")
    # What others leave behind: small files that were compacted, an attempt that was lost, a deletion by hand, a page.
    list(compact(home, groups_to_compact(home, datetime.now(UTC) + timedelta(days=1)), lambda: None))
    folder = f"ingest_date={datetime.now(UTC).date()}"
    [*_, some_file] = [key for key in keys_below(home.features) if key.endswith(".parquet")]
    overwrite(home.features, f"{folder}/part-lost.zstd.parquet", read(home.features, some_file))
    handle = open_table(home, REJECT_ROWS)
    assert handle is not None
    handle.delete(f"source = '{home.landing.uri}/{ANNA}/nothing.jpg'")
    overwrite(home.reports, "today.html", f"<p>{ANNA}".encode())
    # Not planned yet.
    _drop(settings, {f"{ANNA}/pear/0.jpg": jpeg(30), f"{BEN}/pear/0.jpg": jpeg(31)})
    everywhere = {"answers", "archive", "features", "landing", "projections", "rejects", "reports", "state"}
    assert {name.removeprefix("home/").partition("/")[0] for name in _where(home, ANNA)} == everywhere

    certificate = _erase(settings, _subject())

    assert _where(home, ANNA, hers["image_id"]) == set()
    assert certificate.removed["features rows"] == 3
    assert certificate.removed["rejects rows"] == 2
    assert certificate.removed["projections rows"] == 3
    assert certificate.removed["labels rows"] == 1
    assert [row["image_id"] for row in rows(settings, "SELECT image_id FROM labels")] == [his]
    assert certificate.removed["answers"] == 5
    assert {key: read(home.answers, key) for key in keys_below(home.answers)} == his_answers and len(his_answers) == 5
    assert certificate.finished_at is not None and read_certificate(home, certificate.id) == certificate
    assert rows(settings, "SELECT * FROM features ORDER BY source") == before
    assert rows(settings, "SELECT * FROM rejects") == rejected
    assert read_status(home, verify=True).broken == []
    # What comes later is no business of the request, and a start finds nothing amiss.
    _drop(settings, {f"{ANNA}/pear/1.jpg": jpeg(32)})
    drain(settings)
    assert [
        row["n"] for row in rows(settings, "SELECT count(*) AS n FROM features GROUP BY subject ORDER BY subject")
    ] == [1, 4]
    assert read_status(home, verify=True).broken == []
    assert _erase(settings, _subject()).removed["features rows"] == 1


@pytest.mark.parametrize("settings", ["disk", pytest.param("S3", marks=pytest.mark.processes)], indirect=True)
@pytest.mark.parametrize("kind", ["subject", "image", "source"])
def test_a_copy_goes_with_its_photo(settings: Settings, drain: Drain, kind: Kind) -> None:
    with_copies, home = settings.model_copy(update={"copies": True}), settings.places()
    _drop(
        settings, {f"{ANNA}/kiwi/a.jpg": jpeg(1), f"{ANNA}/kiwi/notes.jpg": text_file(), f"{BEN}/kiwi/a.jpg": jpeg(2)}
    )
    ingest(with_copies)
    _drop(settings, {f"{BEN}/kiwi/b.jpg": jpeg(3)})
    ingest(with_copies)
    [hers] = rows(settings, f"SELECT image_id, source, jpeg FROM copies WHERE source LIKE '%{ANNA}%'")
    his = f"SELECT * FROM copies WHERE source LIKE '%{BEN}%' ORDER BY source"
    before = rows(settings, his)
    # An attempt that was lost.
    [first, _] = [key for key in keys_below(home.copies) if key.endswith(".parquet")]
    overwrite(home.copies, first.replace("part-", "part-lost-"), read(home.copies, first))
    value = {"subject": ANNA, "image": hers["image_id"], "source": f"{ANNA}/kiwi/a.jpg"}[kind]
    request = ErasureRequest(kind, value, (PATTERN,))
    assert count_erasable(home, request)["copies"] == 1

    certificate = _erase(settings, request)

    assert certificate.removed["copies rows"] == 1
    pixels = hers["jpeg"][-200:]
    assert [name for name, body in _everything(home) if pixels in body] == []
    assert _where(home, hers["image_id"]) == set()
    assert (rows(settings, his), len(before)) == (before, 2)
    assert read_status(home, verify=True).broken == []
    assert drain(settings).photos == 0


@pytest.mark.parametrize("settings", ["disk", pytest.param("S3", marks=pytest.mark.processes)], indirect=True)
def test_a_photo_is_found_by_its_content_whatever_its_key(settings: Settings) -> None:
    _drop(settings, {f"{ANNA}/kiwi/a.jpg": jpeg(1), f"{BEN}/kiwi/b.jpg": jpeg(1), f"{BEN}/kiwi/c.jpg": jpeg(2)})
    ingest(settings)
    answer_all(settings.places())
    _drop(settings, {f"{BEN}/lime/copy.jpg": jpeg(1), f"{BEN}/lime/other.jpg": jpeg(3)})
    image = rows(settings, f"SELECT image_id FROM features WHERE subject = '{ANNA}'")[0]["image_id"]

    certificate = _erase(settings, ErasureRequest("image", image))

    home = settings.places()
    assert certificate.removed["features rows"] == 2
    assert certificate.removed["answers"] == 2 and list(keys_below(home.answers)) == [f"{BEN}/kiwi/c.jpg.json"]
    assert _where(home, image) == set()
    assert all(jpeg(1) not in body for _, body in _files(home))
    assert [landed.key for landed in list_landed(home.landing)] == [f"{BEN}/lime/other.jpg"]
    ingest(settings)
    sources = rows(settings, "SELECT split_part(source, '/landing/', 2) AS key FROM features ORDER BY key")
    assert [row["key"] for row in sources] == [f"{BEN}/kiwi/c.jpg", f"{BEN}/lime/other.jpg"]
    assert rows(settings, "SELECT * FROM rejects") == []
    assert read_status(home, verify=True).broken == []


def test_an_object_goes_by_its_key_or_its_uri(on_disk: Settings) -> None:
    _drop(on_disk, {f"{BEN}/kiwi/a.jpg": jpeg(1), f"{BEN}/kiwi/aa.jpg": jpeg(2), f"{BEN}/kiwi/b.jpg": text_file()})
    ingest(on_disk)
    home = on_disk.places()
    assert _erase(on_disk, ErasureRequest("source", f"{BEN}/kiwi/a.jpg")).removed["features rows"] == 1
    assert (
        _erase(on_disk, ErasureRequest("source", home.landing.uri_of(f"{BEN}/kiwi/b.jpg"))).removed["rejects rows"] == 1
    )
    assert [path.name for path in home.landing.directory.rglob("*.jpg")] == ["aa.jpg"]
    assert _where(home, f"{BEN}/kiwi/a.jpg", f"{BEN}/kiwi/b.jpg") == set()
    assert read_status(home, verify=True).broken == []


@pytest.mark.parametrize("name", ["7", "add", "e", "o'neil"])
def test_a_name_that_the_log_is_full_of_costs_no_log(name: str, on_disk: Settings) -> None:
    settings, home = on_disk, on_disk.places()
    _drop(settings, {f"{who}/kiwi/{n}.jpg": jpeg(n) for who in (name, BEN) for n in range(2)})
    _drop(settings, {f"{who}/kiwi/no.jpg": text_file() for who in (name, BEN)})
    ingest(settings)
    append_once(home, REJECT_ROWS, "somebody", (), {"note": f"of {name}"}, lambda _: False)
    handle = open_table(home, REJECT_ROWS)
    assert handle is not None
    handle.create_checkpoint()
    certificate = _erase(settings, _subject(name))
    assert (certificate.looks, certificate.removed["rejects log"]) == (2, 1)
    assert "features log" not in certificate.removed
    assert (_count(settings, "features"), _count(settings, "rejects")) == (2, 1)
    assert read_status(home, verify=True).broken == []
    _drop(settings, {f"{BEN}/lime/0.jpg": jpeg(9)})
    ingest(settings)
    assert _count(settings, "features") == 3


def test_a_deletion_by_hand_leaves_no_name_in_the_log(on_disk: Settings) -> None:
    name, home = "o'neil", on_disk.places()
    _drop(on_disk, {f"{name}/kiwi/no.jpg": text_file(), f"{BEN}/kiwi/no.jpg": text_file()})
    ingest(on_disk)
    handle = open_table(home, REJECT_ROWS)
    assert handle is not None
    handle.delete("source LIKE '%o''neil/kiwi/no.jpg'")
    assert _erase(on_disk, _subject(name)).removed["rejects log"] == 1
    assert _where(home, "neil") == set()
    assert _count(on_disk, "rejects") == 1


def test_a_file_whose_name_is_not_unicode_goes_too(on_disk: Settings, drain: Drain) -> None:
    _drop(on_disk, {f"{BEN}/kiwi/b.jpg": jpeg(2)})
    home = on_disk.places()
    folder = home.landing.directory / ANNA / os.fsdecode(b"kiwi-\xfe")
    folder.mkdir(parents=True)
    (folder / os.fsdecode(b"\xff.jpg")).write_bytes(jpeg(1))
    drain(on_disk)
    assert _erase(on_disk, _subject()).removed["landing"] == 1
    assert _where(home, ANNA) == set()
    assert read_status(home, verify=True).broken == []


COMPOSED, DECOMPOSED = "zo\u00e9-4711", "zoe\u0301-4711"
ACCENTS = [COMPOSED, DECOMPOSED, *(json.dumps(text)[1:-1] for text in (COMPOSED, DECOMPOSED))]


@pytest.mark.parametrize(
    ("settings", "folder", "asked"),
    [
        ("disk", COMPOSED, DECOMPOSED),
        ("disk", DECOMPOSED, COMPOSED),
        pytest.param("S3", COMPOSED, DECOMPOSED, marks=pytest.mark.processes),
    ],
    indirect=["settings"],
)
def test_a_person_is_found_in_whichever_form_the_accents_are_written(
    settings: Settings, folder: str, asked: str
) -> None:
    home = settings.places()
    serve_a_model(home)
    _drop(settings, {f"{folder}/kiwi/a.jpg": jpeg(1), f"{folder}/kiwi/no.jpg": text_file()})
    _drop(settings, {f"{BEN}/kiwi/b.jpg": jpeg(2), f"{BEN}/zoe-4711/c.jpg": jpeg(3)})
    ingest(settings)
    # As former releases wrote rows of a decomposed name, and a log that says so.
    for table in (FEATURE_ROWS, PROJECTION_ROWS):
        handle = open_table(home, table)
        assert handle is not None
        handle.update(new_values={"subject": DECOMPOSED}, predicate=f"subject = '{COMPOSED}'")
        handle.delete(f"subject = '{folder}' AND batch = 0")
    _drop(settings, {f"{form}/lime/d.jpg": jpeg(seed) for seed, form in enumerate((COMPOSED, DECOMPOSED), 4)})

    certificate = _erase(settings, _subject(asked))

    assert _where(home, *ACCENTS) == set()
    assert (certificate.removed["features rows"], certificate.removed["rejects rows"]) == (1, 1)
    assert certificate.removed["archive"] == 2
    assert list(list_landed(home.landing)) == []
    assert _count(settings, "features") == 2
    assert read_status(home, verify=True).broken == []
    ingest(settings)
    assert _count(settings, "features") == 2


@pytest.mark.parametrize("as_uri", [False, True])
def test_an_object_is_found_in_whichever_form_its_key_is_written(on_disk: Settings, as_uri: bool) -> None:
    home = on_disk.places()
    keys = {"p\u00eache/e\u0301.jpg": jpeg(1), "p\u00eache/no.jpg": text_file(), "kiwi/a.jpg": jpeg(2)}
    _drop(on_disk, keys)
    ingest(on_disk)
    for key in ("pe\u0302che/\u00e9.jpg", "pe\u0302che/no.jpg"):
        certificate = _erase(on_disk, ErasureRequest("source", home.landing.uri_of(key) if as_uri else key))
        assert certificate.removed["landing"] == 1
    assert _where(home, "p\u00eache/e", "pe\u0302che/\u00e9", "/no.jpg") == set()
    assert _count(on_disk, "features") == 1
    assert read_status(home, verify=True).broken == []


@pytest.mark.parametrize("asked", [COMPOSED, DECOMPOSED])
def test_a_request_of_a_former_release_holds_in_the_form_it_was_made_in(tmp_path: Path, asked: str) -> None:
    home = load_settings(home=str(tmp_path)).places()
    begin_erasure(home, "subject", ANNA, [PATTERN], datetime.now(UTC))
    known = read_erasures(home)
    # They hashed a name as it was typed.
    digest = digest_of(known.salt, "subject", asked)
    standing = replace(known.erasures[0], digests=(digest,))
    overwrite(home.state, "erasures.json", TypeAdapter(Erasures).dump_json(replace(known, erasures=(standing,))))
    for folder in (COMPOSED, DECOMPOSED):
        landed = LandedObject(f"{folder}/kiwi/a.jpg", 1, "e", standing.before - timedelta(days=1))
        assert erasure_filter(home).covers(home.landing, landed)
        assert begin_erasure(home, "subject", folder, [PATTERN], datetime.now(UTC)).id == standing.id


@pytest.mark.parametrize(
    "value", ["anna", "e\u0301", "\u00e9a\u0301b", "\u6a59\u5b50", "\u0301", "a\u0323\u0307", "\uac01"]
)
def test_no_row_is_passed_over_for_what_stands_around_a_name(value: str, tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path)).places()
    selection = Selection("subject", value, datetime.now(UTC), (r"^<(?P<subject>[^>]+)>",), (home.landing,))
    now = datetime.now(UTC) - timedelta(days=1)
    keys = [
        f"<{unicodedata.normalize(form, value)}>{after}" for form in ("NFC", "NFD") for after in ("", "\u0323", "x")
    ]
    sources = pa.array([*(home.landing.uri_of(key) for key in keys), home.landing.uri_of("<ann>x")])
    found = selection.row_mask(pa.RecordBatch.from_pydict({"source": sources, "arrived_at": [now] * len(sources)}))
    assert found.to_pylist() == [True] * len(keys) + [False]


@pytest.mark.processes
def test_photos_go_with_their_rows_when_the_key_pattern_has_changed(on_disk: Settings) -> None:
    home = on_disk.places()
    _drop(on_disk, {f"{ANNA}/kiwi/a.jpg": jpeg(1), f"{BEN}/kiwi/b.jpg": jpeg(2), f"{BEN}/{ANNA}/c.jpg": jpeg(3)})
    ingest(on_disk.model_copy(update={"copies": True}))
    _fold_plans(home)
    today = ErasureRequest("subject", ANNA, (r"^nobody/(?P<subject>[^/]+)/",))
    for step in ("erase_rows", "erase_landed"):
        with pytest.MonkeyPatch.context() as cut:
            # Feature rows are gone then, copies and photos are not; and then copies, too.
            cut.setattr(erase_module, step, _cut_off if step == "erase_landed" else _cut_off_at_copies)
            with pytest.raises(KeyboardInterrupt):
                _erase(on_disk, today)
        assert _count(on_disk, "features") == 2
    assert [row["source"].split("/landing/")[1] for row in rows(on_disk, "SELECT source FROM copies ORDER BY 1")] == [
        f"{BEN}/{ANNA}/c.jpg",
        f"{BEN}/kiwi/b.jpg",
    ]
    _erase(on_disk, today)
    assert sorted(landed.key for landed in list_landed(home.landing)) == [f"{BEN}/{ANNA}/c.jpg", f"{BEN}/kiwi/b.jpg"]
    assert _count(on_disk, "features") == 2


def test_rows_of_a_landing_that_nothing_tells_of_are_not_erased_without_their_photos(
    on_disk: Settings, tmp_path: Path
) -> None:
    home = on_disk.places()
    moved = on_disk.model_copy(update={"landing": str(tmp_path / "moved")})
    overwrite(moved.places().landing, f"{ANNA}/kiwi/a.jpg", jpeg(1))
    ingest(moved)
    _fold_plans(home)
    forget_names(home.root.directory)
    with pytest.raises(InvalidSetting, match=r"1 rows are of objects below .*/moved/.*; add --former-landing"):
        _erase(on_disk, _subject())
    assert (_count(on_disk, "features"), read_erasures(home).begun) == (1, 0)
    former = replace(_subject(), former_landings=(moved.places().landing.uri,))
    assert _erase(on_disk, former).removed == {
        "features rows": 1,
        "features files": 1,
        "landing": 1,
    }
    assert list(list_landed(moved.places().landing)) == []


def _fold_plans(home: Home) -> None:
    for path in home.batches.directory.iterdir():
        path.unlink()


def test_an_empty_folder_goes_only_with_the_person_whose_it_is(on_disk: Settings) -> None:
    landing = on_disk.places().landing.directory
    _drop(on_disk, {"a/kiwi/1.jpg": jpeg(1), f"{BEN}/kiwi/b.jpg": jpeg(2)})
    ingest(on_disk)
    for folder in ("banana", "carl/a"):
        (landing / folder).mkdir(parents=True)
    _erase(on_disk, _subject("a"))
    assert sorted(str(path.relative_to(landing)) for path in landing.rglob("*") if path.is_dir()) == [
        "banana",
        BEN,
        f"{BEN}/kiwi",
        "carl",
        "carl/a",
    ]


def test_what_a_kill_left_half_written_goes_with_the_person(on_disk: Settings) -> None:
    home = on_disk.places()
    _drop(on_disk, {f"{ANNA}/kiwi/a.jpg": jpeg(1)})
    ingest(on_disk)
    # A photo of somebody else can be called so.
    others = home.landing.directory / BEN / "kiwi" / "b.jpg#1"
    others.parent.mkdir(parents=True)
    others.write_bytes(jpeg(2))
    for place, key in (
        (home.answers, f"{ANNA}/kiwi/a.jpg.json#1"),
        (home.labels, "ingest_date=2026-10-05/part.parquet#2"),
    ):
        (place.directory / key).parent.mkdir(parents=True)
        (place.directory / key).write_text(ANNA)
    certificate = _erase(on_disk, _subject())
    assert certificate.removed["half-written files"] == 2
    assert _where(home, ANNA) == set()
    assert others.exists()


@pytest.mark.processes
def test_beside_a_stream_and_uploads_of_the_same_person(on_disk: Settings) -> None:
    home = on_disk.places()
    landed: list[tuple[datetime, str]] = []
    stop = threading.Event()

    def upload() -> None:
        for number in range(10_000):
            for name in (ANNA, BEN):
                key = f"{name}/kiwi/{number:05d}.jpg"
                overwrite(home.landing, key, jpeg(number % 40, 64, 64))
                landed.append((datetime.now(UTC), key))
            if stop.wait(0.15):
                return

    uploads = threading.Thread(target=upload)
    with stream_process(on_disk, "--key-pattern", PATTERN, "--answers") as process:
        uploads.start()
        _until(lambda: open_table(home, FEATURE_ROWS) is not None and _count(on_disk, "features") > 12)
        asked_from = datetime.now(UTC)
        certificate = _erase(on_disk, _subject())
        before = read_erasures(home).erasures[0].before
        assert before >= asked_from
        _until(
            lambda: (
                _count(on_disk, f"features WHERE arrived_at > TIMESTAMPTZ '{datetime.now(UTC)}' - INTERVAL 2 SECOND")
                > 0
            )
        )
        stop.set()
        uploads.join()
        gone = [key for at, key in landed if key.startswith(ANNA) and at < before]
        stays = {key for at, key in landed if at > before + timedelta(seconds=0.1)}
        others = {key for _, key in landed if key.startswith(BEN)}
        assert gone
        process.terminate()
        assert process.wait(60) == 0
    sources = {row["key"] for row in rows(on_disk, "SELECT split_part(source, '/landing/', 2) AS key FROM features")}
    waiting = {one.key for one in list_landed(home.landing)}
    assert not sources & set(gone)
    assert stays | others <= sources | waiting
    assert rows(on_disk, "SELECT * FROM rejects") == []
    assert _where(home, *gone) == set()
    answered = {parse_answer(read(home.answers, key), key).key for key in keys_below(home.answers)}
    assert answered == sources and certificate.removed["answers"] > 0
    assert certificate.looks >= 2
    assert read_status(home, verify=True).broken == []


def _count(settings: Settings, what: str) -> int:
    return int(rows(settings, f"SELECT count(*) AS n FROM {what}")[0]["n"])


def _until(condition: Callable[[], bool]) -> None:
    ends_at_s = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends_at_s
        time.sleep(0.3)


def test_a_plan_made_from_an_older_look_is_begun_without_what_is_to_be_forgotten(
    on_disk: Settings, drain: Drain
) -> None:
    home = on_disk.places()
    _drop(on_disk, {f"{ANNA}/kiwi/a.jpg": jpeg(1), f"{BEN}/kiwi/b.jpg": jpeg(2), f"{ANNA}/kiwi/c.jpg": text_file()})
    ingest(on_disk)
    _drop(on_disk, {f"{ANNA}/lime/d.jpg": jpeg(3), f"{BEN}/lime/e.jpg": jpeg(4)})
    new = tuple(landed for landed in list_landed(home.landing) if "/lime/" in landed.key)
    erasure = begin_erasure(home, "subject", ANNA, [PATTERN], datetime.now(UTC))
    write_plan(home, replace(_plan(home, 1), batch=2, nonce="another look", objects=new))
    with pytest.raises(HomeInUse, match="Batch 2 is planned and not committed; run `fruits stream --drain`"):
        _erase(on_disk, _subject())
    drain(on_disk)
    assert [landed.key for landed in _plan(home, 2).objects] == [f"{BEN}/lime/e.jpg"]
    certificate = _erase(on_disk, _subject())
    assert certificate.id == erasure.id
    assert _where(home, ANNA) == set()
    assert read_status(home, verify=True).broken == []


def test_a_plan_that_goes_before_what_is_to_be_forgotten_leaves_it_is_not_worked(
    on_disk: Settings, spark: SparkSession
) -> None:
    home = on_disk.places()
    _drop(on_disk, {f"{ANNA}/kiwi/a.jpg": jpeg(1), f"{BEN}/kiwi/b.jpg": jpeg(2)})
    ingest(on_disk)
    _drop(on_disk, {f"{ANNA}/lime/d.jpg": jpeg(3), f"{BEN}/lime/e.jpg": jpeg(4)})
    new = tuple(landed for landed in list_landed(home.landing) if "/lime/" in landed.key)
    begin_erasure(home, "subject", ANNA, [PATTERN], datetime.now(UTC))
    write_plan(home, replace(_plan(home, 1), batch=2, nonce="another look", objects=new))

    def delete_plan(batch: int, stage: str, _: float) -> None:
        (home.batches.directory / plan_key(batch)).unlink(missing_ok=True)

    batches = MicroBatches(spark.sparkContext, home, on_disk.limits, "a stream", lambda _, __: None, delete_plan)
    with pytest.raises(StateDamaged, match=r"000000000002\.plan\.json is gone; start the stream again\."):
        batches.run(2)
    assert read_result(home, 2) is None
    assert _count(on_disk, "features") == 2


def _plan(home: Home, batch: int) -> Plan:
    plan = read_plan(home, batch)
    assert plan is not None
    return plan


def test_a_plan_of_nothing_but_what_is_to_be_forgotten_is_committed_empty(on_disk: Settings, drain: Drain) -> None:
    home = on_disk.places()
    _drop(on_disk, {f"{BEN}/kiwi/b.jpg": jpeg(2)})
    ingest(on_disk)
    _drop(on_disk, {f"{ANNA}/lime/d.jpg": jpeg(3)})
    new = tuple(landed for landed in list_landed(home.landing) if "/lime/" in landed.key)
    begin_erasure(home, "subject", ANNA, [PATTERN], datetime.now(UTC))
    write_plan(home, replace(_plan(home, 1), batch=2, nonce="another look", objects=new))
    drain(on_disk)
    _erase(on_disk, _subject())
    assert _where(home, ANNA) == set()
    status = read_status(home, verify=True)
    assert (status.broken, status.unfinished_batches) == ([], [])


@pytest.mark.processes
@pytest.mark.parametrize("step", ["commit_replacements", "settle_erased_rows", "delete_all", "_delete_unreferenced"])
def test_cut_off_at_any_step_the_same_request_goes_on(
    step: str, on_disk: Settings, drain: Drain, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = on_disk.places()
    _drop(on_disk, {f"{name}/kiwi/{n}.jpg": jpeg(n) for name in (ANNA, BEN) for n in range(2)})
    _drop(on_disk, {f"{name}/kiwi/no.jpg": text_file() for name in (ANNA, BEN)})
    ingest(on_disk)
    with monkeypatch.context() as cut:
        cut.setattr(rows_module, step, _cut_off)
        with pytest.raises(KeyboardInterrupt):
            _erase(on_disk, _subject())
    [unfinished] = read_erasures(home).unfinished
    [finding] = read_status(home, verify=True).broken or []
    assert "is not finished" in finding
    # What is uploaded meanwhile came after the request.
    _drop(on_disk, {f"{ANNA}/later/0.jpg": jpeg(7)})
    drain(on_disk)
    maintain(home, Retention(), print, lambda _: None)
    certificate = _erase(on_disk, _subject())
    assert (certificate.id, certificate.asked_at) == (unfinished.id, unfinished.before)
    assert _where(home, f"{ANNA}/kiwi") == set()
    assert _count(on_disk, "features") == 3
    assert read_status(home, verify=True).broken == []
    drain(on_disk)
    assert read_status(home, verify=True).broken == []


def _cut_off(*_: object) -> None:
    raise KeyboardInterrupt


def _cut_off_at_copies(home: Home, selection: Selection, table: Table, check: Callable[[], None]) -> ErasedRows:
    if table is COPY_ROWS:
        raise KeyboardInterrupt
    return erase_rows(home, selection, table, check)


def test_a_reprojection_that_read_before_brings_no_row_back(on_disk: Settings, spark: SparkSession) -> None:
    home = on_disk.places()
    _drop(on_disk, {f"{ANNA}/kiwi/a.jpg": jpeg(1), f"{BEN}/kiwi/b.jpg": jpeg(2)})
    ingest(on_disk)
    serve_a_model(home)

    def erased_meanwhile(done: int, _: int) -> None:
        if not read_erasures(home).begun:
            begin_erasure(home, "subject", ANNA, [PATTERN], datetime.now(UTC))

    with pytest.raises(HomeInUse, match="An erasure began meanwhile"):
        reproject(spark.sparkContext, home, print, erased_meanwhile)
    assert _count(on_disk, "projections") == 0
    _erase(on_disk, _subject())
    assert _where(home, ANNA) == set()
    reproject(spark.sparkContext, home, print, lambda _, __: None)
    assert _count(on_disk, "projections") == 1
    assert read_status(home, verify=True).broken == []


def test_a_refit_that_read_before_leaves_no_sums(on_disk: Settings, spark: SparkSession) -> None:
    home = on_disk.places()
    _drop(on_disk, {f"{name}/kiwi/{n}.jpg": jpeg(n) for name in (ANNA, BEN) for n in range(3)})
    ingest(on_disk)
    wanted = RefitOptions(2, None, 2)

    def fit(on_progress: Callable[[int, int], None]) -> None:
        refit(spark.sparkContext, home, wanted, dry_run=False, full=False, on_progress=on_progress)

    def asked_meanwhile(_: int, __: int) -> None:
        if not read_erasures(home).begun:
            begin_erasure(home, "subject", ANNA, [PATTERN], datetime.now(UTC))

    with pytest.raises(HomeInUse, match="An erasure began meanwhile"):
        fit(asked_meanwhile)
    assert list(keys_below(home.pca_models.child("moments"))) == []
    with pytest.raises(HomeInUse, match="is not finished; if none is at work, run it again with the same option"):
        fit(lambda _, __: None)
    _erase(on_disk, _subject())
    fit(lambda _, __: None)


@pytest.mark.processes
def test_a_late_message_does_not_bring_a_name_back(
    s3_settings: MakeSettings, drain: Drain, sqs: "SQSClient", queue_url: str, bucket: str, s3: "S3Client"
) -> None:
    settings = s3_settings(key_pattern=PATTERN, queue=queue_url)
    arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    s3.put_bucket_notification_configuration(
        Bucket=bucket,
        NotificationConfiguration={
            "QueueConfigurations": [
                {
                    "QueueArn": arn,
                    "Events": ["s3:ObjectCreated:*"],
                    "Filter": {"Key": {"FilterRules": [{"Name": "prefix", "Value": "home/landing/"}]}},
                }
            ]
        },
    )
    _drop(settings, {f"{ANNA}/kiwi/a.jpg": jpeg(1), f"{BEN}/kiwi/b.jpg": jpeg(2)})
    # Messages have only seconds.
    time.sleep(1.1)
    _erase(settings, _subject())
    run = drain(settings)
    assert run.photos == 1
    assert rows(settings, "SELECT * FROM rejects") == []
    assert _where(settings.places(), ANNA) == set()
    depth = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
    assert depth["ApproximateNumberOfMessages"] == "0"


def test_what_is_passed_over_is_forgotten_when_no_message_can_come_any_more(tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path)).places()
    now = datetime.now(UTC)
    erasure = begin_erasure(home, "subject", ANNA, [PATTERN], now - timedelta(days=20))
    landed = LandedObject(f"{ANNA}/kiwi/a.jpg", 1, "e", now - timedelta(days=21))
    assert erasure_filter(home).covers(home.landing, landed)
    assert not erasure_filter(home).covers(home.landing, replace(landed, arrived_at=now))
    # An object may be asked for by its key or by its URI.
    for named in ("other/a.jpg", home.landing.uri_of("other/b.jpg")):
        other = begin_erasure(home, "source", named, [], now - timedelta(days=20))
        assert erasure_filter(home).covers(home.landing, replace(landed, key=f"other/{named[-5:]}"))
        finish_erasure(home, other.id, now - timedelta(days=15))
    assert not erasure_filter(home).covers(home.landing, replace(landed, key=f"{BEN}/kiwi/a.jpg"))
    assert ANNA not in read(home.state, "erasures.json").decode()
    finish_erasure(home, erasure.id, now - timedelta(days=15))
    maintain(home, Retention(), print, lambda _: None)
    assert read_erasures(home).erasures == ()


@pytest.mark.parametrize("key", ["a/b.jpg", "b", "a.b/c", "x.y.z.jpeg", "a/b..jpg"])
def test_an_archived_name_tells_its_key(key: str) -> None:
    landed = LandedObject(key, 1, "18c0-5f", datetime.now(UTC))
    assert archived_key(archived_name(landed)) == (key, "18c0-5f")


def test_the_command_asks_for_one_thing_and_a_yes(
    on_disk: Settings, local_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    home = ["--home", on_disk.home]
    _drop(on_disk, {f"{ANNA}/kiwi/a.jpg": jpeg(1)})
    ingest(on_disk)

    def refused(*arguments: str) -> str:
        answer = CliRunner().invoke(app, ["erase", *arguments, *home])
        assert isinstance(answer.exception, InvalidSetting)
        return str(answer.exception)

    assert refused() == "Say what to forget with one of --subject NAME, --image ID, --source KEY, --labeller NAME."
    assert refused("--subject", "a", "--source", "b") == refused()
    assert refused("--image", "IMG_1.jpg").startswith("An image id is the SHA-256 of a photo")
    assert refused("--subject", ANNA, "--key-pattern", PATTERN).startswith("Erasing needs a yes: add --yes")
    counted = CliRunner().invoke(app, ["erase", "--subject", ANNA, "--dry-run", *home])
    assert counted.exit_code == 0 and "nothing was changed" in counted.output
    assert _count(on_disk, "features") == 1
    done = CliRunner().invoke(app, ["erase", "--subject", "-", "--yes", *home], input=f"{ANNA}\n")
    assert done.exit_code == 0, done.output
    assert "the last of 2 searches found nothing" in " ".join(done.output.split())
    assert ANNA not in done.output
    assert _count(on_disk, "features") == 0
    new = local_settings(home=str(tmp_path / "new")).home
    nowhere = CliRunner().invoke(app, ["erase", "--subject", ANNA, "--yes", "--home", new])
    assert str(nowhere.exception).startswith("The key pattern has no group `subject`")
    slip = tmp_path / "another"
    for option in ("--yes", "--dry-run"):
        nothing = CliRunner().invoke(app, ["erase", "--source", "a/b.jpg", option, "--home", str(slip)])
        assert str(nothing.exception).startswith(f"There is no home at file://{slip}")
    assert not slip.exists()
