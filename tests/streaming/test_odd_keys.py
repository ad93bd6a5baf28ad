"""A key is taken exactly, also where clients take it for another; accents written in two ways are one label."""

import csv
import hashlib
import unicodedata
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from batch.maintain.retention import expire_objects
from ops.cli.main import app
from ops.rejects import RejectFilter, find_version, rejects_of, select_retries, source_of
from ops.report.data import collect
from ops.report.photo_map import MapPhoto
from ops.report.thumbnails import thumbnails
from ops.status.status import read_status
from store.objects.landing import LandedObject, archived_name, list_landed, stat_object
from store.objects.location import StorageLocation
from store.objects.versions import Version, delete_versions
from store.settings import Settings
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS
from streaming.discovery.visibility import not_seen_at
from tests.conftest import REGION
from tests.support.feature_rows import serve_a_model
from tests.support.keys import IGNORED_KEYS, ODD_KEYS
from tests.support.pictures import jpeg, text_file
from tests.support.stream_run import Run, rows

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

# Of each of the first three an obstore client gets another's bytes, or none at all.
PAIRS = ["x.jpg", "/x.jpg", "//x.jpg", "a/b.jpg", "a//b.jpg", "a///b.jpg"]
ALONE = ["/only.jpg", "kiwi//only.jpg", "kiwi://x.jpg", "tab\t.jpg", "bell\a.jpg", "return\r.jpg"]
DOTTED = ["./here.jpg", "a/./b.jpg", "kiwi/../a/b.jpg"]


def _drop(s3: "S3Client", settings: Settings, bodies: dict[str, bytes]) -> None:
    bucket, prefix = settings.places().landing.bucket_and_prefix
    for key, body in bodies.items():
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{key}" if prefix else key, Body=body)


def _hashes(bodies: dict[str, bytes]) -> dict[str, str]:
    return {key: hashlib.sha256(body).hexdigest() for key, body in bodies.items()}


def _photos(settings: Settings) -> dict[str, str]:
    below = f"{settings.places().landing.uri}/"
    found = rows(settings, "SELECT source, image_id FROM features")
    assert len({row["source"] for row in found}) == len(found)
    return {row["source"].removeprefix(below): row["image_id"] for row in found}


def _said(settings: Settings, *arguments: str) -> str:
    flags = ["--home", settings.home]
    if settings.s3_endpoint:
        flags += ["--s3-endpoint", settings.s3_endpoint, "--s3-region", REGION]
    done = CliRunner().invoke(app, [*arguments, *flags])
    if done.exception is not None:
        raise done.exception
    return done.stdout


@pytest.mark.processes
def test_each_object_has_the_row_of_its_own_bytes_and_is_shown_by_its_own_name(
    s3_settings: MakeSettings, s3: "S3Client", drain: Drain
) -> None:
    settings = s3_settings()
    home = settings.places()
    bodies = {key: jpeg(seed) for seed, key in enumerate([*PAIRS, *ALONE, *ODD_KEYS])}
    _drop(s3, settings, bodies | {key: jpeg(50) for key in (*DOTTED, *IGNORED_KEYS)} | {"folder/": b""})

    drain(settings)

    assert _photos(settings) == _hashes(bodies)
    rejects = rows(settings, "SELECT source, reason, detail FROM rejects ORDER BY source")
    advice = "The key has a '.' or '..' segment; upload it under another name."
    assert rejects == [{"source": home.landing.uri_of(key), "reason": "unreadable", "detail": advice} for key in DOTTED]
    assert rows(settings, "SELECT * FROM features WHERE first_visible_at IS DISTINCT FROM arrived_at") == []
    assert not_seen_at(home) is None
    assert read_status(home, verify=True).broken == []
    # Nothing is taken for new.
    assert drain(settings).reports == []
    photos = [
        MapPhoto(0.0, 0.0, None, key, datetime.now(UTC), image_id, home.landing.uri_of(key))
        for key, image_id in _hashes(bodies).items()
    ]
    assert set(thumbnails(home, photos, settings.limits)) == set(_hashes(bodies).values())
    found = _said(settings, "query", "find", "--source", "landing//x.jpg", "--format", "csv")
    assert _hashes(bodies)["/x.jpg"] in found
    assert _hashes(bodies)["x.jpg"] not in found
    assert advice in " ".join(_said(settings, "rejects", "show", DOTTED[0]).split())
    assert find_version(home, rejects_of(home, source_of(home, DOTTED[0]))[0]).place == "landing"


@pytest.mark.processes
def test_from_the_archive_each_is_retried_shown_and_erased_alone(
    s3_settings: MakeSettings, s3: "S3Client", drain: Drain
) -> None:
    settings = s3_settings(clean="archive", max_pixels=100_000)
    home = settings.places()
    small = {key: jpeg(seed) for seed, key in enumerate(["x.jpg", "/x.jpg", "a//b.jpg", "tab\t.jpg"])}
    big = {
        key: jpeg(seed, 640, 480) for seed, key in enumerate(["big.jpg", "/big.jpg", "a//big.jpg", "kiwi://big.jpg"])
    }
    notes = {"notes.jpg": text_file(), "kiwi://notes.jpg": text_file()}
    _drop(s3, settings, small | big | notes)

    drain(settings)

    assert list(list_landed(home.landing)) == []
    for key in big:
        [row] = rejects_of(home, source_of(home, key))
        landed = LandedObject(key, row.bytes, row.etag, row.arrived_at)
        where = find_version(home, row)
        assert (where.place, where.detail) == ("archive", home.archive.uri_of(archived_name(landed)))
    asked = [argument for key in (*big, "kiwi://notes.jpg") for argument in ("--source", key)]
    assert "tried again: 5 (not_an_image 1, too_many_pixels 4)." in _said(settings, "rejects", "retry", *asked)
    raised = settings.model_copy(update={"max_pixels": 1_000_000})
    drain(raised)
    assert _photos(settings) == _hashes(small | big)
    assert select_retries(home, RejectFilter()).reasons == {"not_an_image": 2}
    assert read_status(home, verify=True).broken == []
    photos = [
        MapPhoto(0.0, 0.0, None, key, datetime.now(UTC), image_id, home.landing.uri_of(key))
        for key, image_id in _hashes(small | big).items()
    ]
    assert set(thumbnails(home, photos, raised.limits)) == set(_hashes(small | big).values())

    for key in ("/x.jpg", "kiwi://notes.jpg"):
        _said(settings, "erase", "--source", key, "--yes")
    left = (small | big).keys() - {"/x.jpg"}
    assert _photos(settings).keys() == left
    archived = {landed.key for landed in list_landed(home.archive)}
    assert len(archived) == len(left) + 1
    assert not any(key.startswith(("/x.", "kiwi://notes.")) for key in archived)
    assert read_status(home, verify=True).broken == []
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    assert expire_objects(home.archive, timedelta(hours=1), tomorrow, dry_run=False).count == len(archived)
    assert list(list_landed(home.archive)) == []


@pytest.mark.processes
def test_at_the_root_of_a_bucket_and_told_of_by_messages(
    s3_settings: MakeSettings, s3: "S3Client", sqs: "SQSClient", queue_url: str, bucket: str, drain: Drain
) -> None:
    photos = f"{bucket}-photos"
    s3.create_bucket(Bucket=photos, CreateBucketConfiguration={"LocationConstraint": REGION})
    arn = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    told = {"QueueConfigurations": [{"QueueArn": arn, "Events": ["s3:ObjectCreated:*"]}]}
    s3.put_bucket_notification_configuration(Bucket=photos, NotificationConfiguration=told)
    settings = s3_settings(landing=f"s3://{photos}", queue=queue_url, clean="archive")
    bodies = {key: jpeg(seed) for seed, key in enumerate([*PAIRS, *ALONE])}
    _drop(s3, settings, bodies)

    drain(settings)

    assert _photos(settings) == _hashes(bodies)
    assert list(list_landed(settings.places().landing)) == []
    left = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=["All"])["Attributes"]
    assert left["ApproximateNumberOfMessages"] == left["ApproximateNumberOfMessagesNotVisible"] == "0"
    assert read_status(settings.places(), verify=True).broken == []


def test_versions_of_a_key_that_no_xml_can_hold_are_deleted(s3: "S3Client", s3_server: str, bucket: str) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    # moto cannot list versions of such keys; S3 can.
    versions = []
    for key in ("\x01.jpg", "\ufffe.jpg", "a.jpg") * 2:
        put = s3.put_object(Bucket=bucket, Key=f"landing/{key}", Body=b"1")
        landed = LandedObject(key, 1, put["ETag"].strip('"'), datetime.now(UTC))
        versions.append(Version(landed, put["VersionId"], is_current=True, is_mark=False))
    assert delete_versions(StorageLocation.at(f"s3://{bucket}/landing", s3_server, REGION), versions) == 6
    assert s3.list_object_versions(Bucket=bucket).get("Versions", []) == []


def test_an_archive_on_disk_is_not_left_by_a_key_of_s3(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "x.jpg").write_bytes(b"x")
    (tmp_path / "archive/y.jpg").write_bytes(b"y")
    archive = StorageLocation.at(str(tmp_path / "archive"))
    assert stat_object(archive, "y.jpg") is not None
    for key in (f"{tmp_path}/x.jpg", "../x.jpg", "/y.jpg", "./y.jpg", "a//y.jpg"):
        assert stat_object(archive, key) is None


def test_a_folder_whose_accents_are_written_in_two_ways_is_one_label_and_two_objects(
    local_settings: MakeSettings, drain: Drain
) -> None:
    settings = local_settings(key_pattern=r"^(?P<subject>[^/]+)/(?P<label>\w+)/")
    home = settings.places()
    serve_a_model(home)
    one, other = (unicodedata.normalize(form, "zo\u00e9/p\u00eache/1.jpg") for form in ("NFC", "NFD"))
    for seed, key in enumerate((one, other)):
        path = home.landing.directory / key
        path.parent.mkdir(parents=True)
        path.write_bytes(jpeg(seed))
    drain(settings)
    named = "SELECT DISTINCT label, subject FROM features"
    assert rows(settings, named) == [{"label": "p\u00eache", "subject": "zo\u00e9"}]
    assert set(_photos(settings)) == {one, other}
    # As former releases wrote the row.
    for table in (FEATURE_ROWS, PROJECTION_ROWS):
        handle = open_table(home, table)
        assert handle is not None
        decomposed = {name: unicodedata.normalize("NFD", text) for name, text in rows(settings, named)[0].items()}
        handle.update(new_values=decomposed, predicate=f"source = '{home.landing.uri_of(other)}'")
    assert len(rows(settings, named)) == 2
    for view in ("photos", "current_projections", "arrivals"):
        assert rows(settings, f"SELECT label, count(*) AS n FROM {view} GROUP BY label") == [
            {"label": "p\u00eache", "n": 2}
        ]
    assert rows(settings, "SELECT DISTINCT subject FROM photos") == [{"subject": "zo\u00e9"}]
    [counted] = csv.DictReader(_said(settings, "query", "labels", "--format", "csv").splitlines())
    assert (counted["label"], counted["photos"]) == ("p\u00eache", "2")
    for text in (one, other):
        found = _said(settings, "query", "find", "--source", text, "--format", "csv").splitlines()
        assert len(found) == 3
    assert collect(home).totals["labels"] == 1
