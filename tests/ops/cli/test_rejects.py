"""`fruits rejects` tells what was rejected, where it is now and what to do, and asks for it to be tried again."""

import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

from batch.erase.erase import ErasureRequest, erase
from features.errors import InvalidSetting
from features.rejects import Reason
from ops.cli.main import app
from ops.rejects import (
    WHAT_TO_DO,
    Reject,
    RejectFilter,
    find_version,
    list_rejects,
    rejects_of,
    select_retries,
    source_of,
)
from store.errors import HomeInUse, RejectsStillWait, StateDamaged
from store.home import Home
from store.objects import operations
from store.objects.landing import archived_name, list_landed
from store.objects.location import StorageLocation
from store.objects.operations import overwrite, write_once
from store.objects.versions import list_versions
from store.settings import Settings, load_settings
from store.state.erasures import begin_erasure
from store.state.heartbeat import HeartbeatWriter, read_heartbeat
from store.state.retries import MOST_IN_A_REQUEST, delete_requests, list_requests, read_request, request_retries
from store.tables.commits import commit
from store.tables.files import vectors_column, write_file
from store.tables.handles import create_tables
from store.tables.schemas import FEATURE_ROWS, REJECT_ROWS, TABLES
from tests.conftest import REGION
from tests.support.feature_rows import feature_vectors

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

DAYS = [datetime(2026, 10, 3, 12, tzinfo=UTC), datetime(2026, 10, 4, 12, tzinfo=UTC)]
# By key: batch, reason.
REJECTED = {
    "kiwi/big.jpg": [(1, Reason.TOO_MANY_PIXELS), (2, Reason.TOO_MANY_PIXELS)],
    "kiwi/cut.jpg": [(1, Reason.TRUNCATED)],
    "pear/gone.jpg": [(1, Reason.MISSING)],
    "pear/back.jpg": [(2, Reason.MISSING)],
    "lime/[odd].jpg": [(2, Reason.TOO_MANY_PIXELS)],
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two batches of rejects, of two days; `pear/back.jpg` came again and is a photo of batch 3."""
    home = load_settings(home=str(tmp_path_factory.mktemp("made"))).places()
    create_tables(home)
    for batch, day in enumerate(DAYS, start=1):
        _commit_rejects(home, batch, day)
    _commit_photo(home, 3, "pear/back.jpg")
    for key in ("kiwi/big.jpg", "kiwi/cut.jpg", "pear/back.jpg"):
        path = home.landing.directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(key.encode())
    return home


@pytest.fixture
def home(made: Home) -> Home:
    """The same for each test, without requests."""
    delete_requests(made, list_requests(made))
    return made


def _commit_rejects(home: Home, batch: int, day: datetime) -> None:
    found = [(key, reason) for key, rows in REJECTED.items() for of, reason in rows if of == batch]
    columns = {
        "source": [home.landing.uri_of(key) for key, _ in found],
        "etag": ["e"] * len(found),
        "bytes": [1000] * len(found),
        "arrived_at": [day - timedelta(hours=1)] * len(found),
        "reason": [str(reason) for _, reason in found],
        "detail": [f"Why batch {batch} rejected it."] * len(found),
        "batch": [batch] * len(found),
        "ingested_at": [day] * len(found),
    }
    added = write_file(home, REJECT_ROWS, columns, {"ingest_date": day.date().isoformat()})
    for table in TABLES:
        commit(home, table, batch, "a test", [added] if table is REJECT_ROWS else [])


def _commit_photo(home: Home, batch: int, key: str) -> None:
    columns = {
        "image_id": ["0"],
        "source": [home.landing.uri_of(key)],
        "etag": ["another"],
        "bytes": [1000],
        "arrived_at": [DAYS[1]],
        "label": ["pear"],
        "subject": [None],
        "format": ["JPEG"],
        "width": [640],
        "height": [480],
        "features": vectors_column(feature_vectors(1, 1)),
        "featurizer": ["abc"],
        "batch": [batch],
        "ingested_at": [DAYS[1]],
    }
    added = write_file(home, FEATURE_ROWS, columns, {"ingest_date": DAYS[1].date().isoformat()})
    for table in TABLES:
        commit(home, table, batch, "a test", [added] if table is FEATURE_ROWS else [])


def _said(home: Home, *arguments: str) -> str:
    found = CliRunner().invoke(app, ["rejects", *arguments, "--home", str(home.root.directory)])
    if found.exception is not None:
        raise found.exception
    return found.stdout


def test_the_counts_by_reason_come_with_what_to_do(home: Home) -> None:
    said = _said(home)
    line = next(line for line in said.splitlines() if "too_many_pixels" in line)
    assert [cell.strip() for cell in line.split("│")[1:-1]] == [
        "too_many_pixels",
        "3",
        "2026-10-04 12:00",
        "Why batch 2 rejected it.",
        "start the stream with a larger --max-pixels, then retry",
    ]
    assert "1 more came again and are photos since" in said
    assert WHAT_TO_DO.keys() == set(Reason)


def test_the_list_is_chosen_by_reason_day_and_number(home: Home) -> None:
    def keys(*arguments: str) -> list[str]:
        rows = [json.loads(line) for line in _said(home, "list", "--format", "json", *arguments).splitlines()]
        return sorted(row["source"].removeprefix(f"{home.landing.uri}/") for row in rows)

    assert keys("--reason", "missing") == ["pear/gone.jpg"]
    assert keys("--reason", "missing", "--settled") == ["pear/back.jpg", "pear/gone.jpg"]
    assert keys("--since", "2026-10-04") == ["kiwi/big.jpg", "lime/[odd].jpg"]
    assert len(keys("--limit", "2")) == 2
    assert len(keys("--limit", "0")) == 5
    assert "lime/[odd].jpg" in _said(home, "list")


def test_show_tells_where_the_rejected_version_is_now(home: Home) -> None:
    landed = {one.key: one for one in list_landed(home.landing)}

    def place(key: str, etag: str) -> str:
        day = DAYS[0]
        reject = Reject(
            home.landing.uri_of(key), etag, 1, day, Reason.CORRUPT, "Why.", 1, day, day.date(), None, settled=False
        )
        return find_version(home, reject).place

    archived = home.archive.directory / archived_name(landed["kiwi/big.jpg"])
    archived.parent.mkdir(parents=True, exist_ok=True)
    assert place("kiwi/big.jpg", landed["kiwi/big.jpg"].etag) == "landing"
    assert place("kiwi/big.jpg", "older") == "replaced"
    assert place("kiwi/nothing.jpg", "older") == "gone"
    os.link(home.landing.directory / "kiwi/big.jpg", archived)
    aside = home.landing.directory / "kiwi/big.jpg"
    aside.rename(aside.with_suffix(".aside"))
    try:
        assert place("kiwi/big.jpg", landed["kiwi/big.jpg"].etag) == "archive"
    finally:
        aside.with_suffix(".aside").rename(aside)
        archived.unlink()


def test_show_has_every_row_of_an_object_and_what_to_do_with_it(home: Home) -> None:
    said = _said(home, "show", "kiwi/big.jpg")
    assert said.index("Why batch 2") < said.index("Why batch 1")
    assert "the version that took its place is an arrival of its own" in said
    assert f"To retry: fruits rejects retry --source kiwi/big.jpg --home {home.root.uri}" in said
    assert "nothing: the object came again and is a photo since" in _said(home, "show", "pear/back.jpg")
    assert "upload it again: it is an arrival of its own then" in _said(home, "show", "pear/gone.jpg")


def test_an_object_is_named_by_its_key_its_path_or_its_uri(home: Home) -> None:
    uri = home.landing.uri_of("kiwi/cut.jpg")
    for name in ("kiwi/cut.jpg", str(home.landing.directory / "kiwi/cut.jpg"), uri):
        assert [reject.source for reject in rejects_of(home, source_of(home, name))] == [uri]


def test_a_retry_asks_for_all_rows_of_the_versions_it_chooses_and_only_once(home: Home) -> None:
    said = _said(home, "retry", "--since", "2026-10-04", "--reason", "too_many_pixels")
    assert "Rejects that will be tried again: 3 (too_many_pixels 3)." in said
    assert f"No stream is running. The next one plans them: fruits stream --home {home.root.uri}" in said
    [name] = list_requests(home)
    request = read_request(home, name)
    assert request is not None
    assert request.landing == home.landing.uri
    assert sorted((one.landed.key, one.batch, one.ingest_date) for one in request.retries) == [
        ("kiwi/big.jpg", 1, DAYS[0].date()),
        ("kiwi/big.jpg", 2, DAYS[1].date()),
        ("lime/[odd].jpg", 2, DAYS[1].date()),
    ]
    one = request.retries[0].landed
    assert (one.etag, one.size_bytes, one.arrived_at) == ("e", 1000, DAYS[0] - timedelta(hours=1))

    again = _said(home, "retry", "--source", "kiwi/big.jpg")
    assert "Passed over, because they are asked for already: 2." in again
    assert "Nothing to try again." in again
    assert len(list_requests(home)) == 1
    assert "3 are asked for and wait to be tried again." in _said(home)


def test_a_dry_run_asks_nobody(home: Home) -> None:
    assert "Rejects that would be tried again: 1 (truncated 1)." in _said(
        home, "retry", "--reason", "truncated", "--dry-run"
    )
    assert list_requests(home) == []


def test_what_came_again_and_is_a_photo_is_passed_over(home: Home) -> None:
    said = _said(home, "retry", "--reason", "missing")
    assert "Passed over, because they came again and are photos since: 1." in said
    assert "Rejects that will be tried again: 1 (missing 1)." in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["retry"], "Choose what to try again: --reason too_many_pixels, --source KEY or --since DATE."),
        (["retry", "--reason", "ugly"], "'ugly' is no reason; the reasons are empty, not_an_image,"),
        (["retry", "--since", "yesterday"], "'yesterday' is no date; write it like 2026-10-03."),
        (["retry", "--source", "kiwi/no.jpg"], "kiwi/no.jpg; `fruits rejects list` shows those there are."),
        (["show", "kiwi/no.jpg"], "kiwi/no.jpg; `fruits rejects list` shows those there are."),
    ],
)
def test_what_cannot_be_done_is_one_sentence(home: Home, arguments: list[str], sentence: str) -> None:
    with pytest.raises(InvalidSetting) as refused:
        _said(home, *arguments)
    assert sentence in str(refused.value)
    assert list_requests(home) == []


def test_an_object_that_is_a_photo_is_said_to_be_one(home: Home) -> None:
    photo = load_settings(home=str(home.root.directory)).places()
    assert len(select_retries(photo, RejectFilter(sources=(home.landing.uri_of("kiwi/cut.jpg"),))).retries) == 1
    _commit_photo(home, 4, "kiwi/photo.jpg")
    with pytest.raises(InvalidSetting, match=r"kiwi/photo\.jpg is no reject: it is a photo since batch 4\."):
        _said(home, "show", "kiwi/photo.jpg")


def test_rejects_of_another_landing_are_passed_over_and_named(home: Home, tmp_path: Path) -> None:
    said = _said(home, "retry", "--reason", "truncated", "--landing", str(tmp_path))
    assert f"another landing holds them (name it with --landing): {home.landing.uri_of('kiwi/cut.jpg')}" in said
    assert "Nothing to try again." in said


def test_who_would_wait_is_told_that_no_stream_runs_before_anything_is_asked(home: Home) -> None:
    with pytest.raises(RejectsStillWait, match="No stream runs on"):
        _said(home, "retry", "--reason", "truncated", "--wait")
    assert list_requests(home) == []


def test_a_stream_that_ends_ends_the_wait(home: Home) -> None:
    alive = threading.Event()

    def live_until_something_is_asked() -> None:
        with HeartbeatWriter(home, "a stream", lambda: None):
            while read_heartbeat(home) is None:
                time.sleep(0.01)
            alive.set()
            while not list_requests(home):
                time.sleep(0.01)

    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(live_until_something_is_asked)
        assert alive.wait(60)
        with pytest.raises(RejectsStillWait, match="The stream has ended meanwhile"):
            _said(home, "retry", "--reason", "truncated", "--wait")
        stream.result()
    assert len(list_requests(home)) == 1


def test_a_damaged_request_is_named(home: Home) -> None:
    overwrite(home.state, "requests/retry-torn.json", b"{")
    with pytest.raises(StateDamaged, match=r"retry-torn\.json cannot be read; delete it and ask again"):
        _said(home, "retry", "--reason", "truncated")


def test_many_are_asked_for_in_requests_of_a_bounded_size(home: Home) -> None:
    [retry] = select_retries(home, RejectFilter(reason=Reason.TRUNCATED)).retries
    assert len(request_retries(home, home.landing.uri, [retry] * (MOST_IN_A_REQUEST + 1), 0)) == 2
    largest = max(path.stat().st_size for path in (home.state.directory / "requests").iterdir())
    assert largest < 16_000_000


@pytest.fixture(params=["disk", "S3"])
def own(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """A home of the test's own with one batch of rejects; on S3 its bucket keeps every version."""
    if request.param == "disk":
        settings = load_settings(home=str(tmp_path))
    else:
        bucket, server = (str(request.getfixturevalue(name)) for name in ("bucket", "s3_server"))
        s3: S3Client = request.getfixturevalue("s3")
        s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
        settings = load_settings(home=f"s3://{bucket}/home", s3_endpoint=server, s3_region=REGION)
    create_tables(settings.places())
    _commit_rejects(settings.places(), 1, DAYS[0])
    return settings


@pytest.mark.parametrize("when", ["before the request", "while it is written"])
def test_a_paused_retry_keeps_no_key_that_was_erased_meanwhile(
    own: Settings, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = own.places()
    key = "kiwi/big.jpg"
    really_write, written = write_once, []

    def forget() -> None:
        erase(home, ErasureRequest("source", key), print, lambda _, __: None, copy_s=0)

    def pause_and_write(place: StorageLocation, name: str, body: bytes) -> bytes:
        forget()
        written.append(body)
        return really_write(place, name, body)

    flags = ["--home", own.home]
    if own.s3_endpoint:
        flags += ["--s3-endpoint", own.s3_endpoint, "--s3-region", REGION]
    if when == "before the request":
        wanted = select_retries(home, RejectFilter(sources=(home.landing.uri_of(key),)))
        forget()
        with pytest.raises(HomeInUse, match="An erasure began meanwhile"):
            request_retries(home, home.landing.uri, wanted.retries, wanted.erasures_begun)
    else:
        monkeypatch.setattr(operations, "write_once", pause_and_write)
        answer = CliRunner().invoke(app, ["rejects", "retry", "--source", key, *flags])
        assert isinstance(answer.exception, HomeInUse)
        assert "An erasure began meanwhile" in str(answer.exception)
        assert key.encode() in written[0]
    assert list_requests(home) == []
    assert list(list_versions(home.state.child("requests"))) == []
    assert list_rejects(home, RejectFilter()).num_rows == len(REJECTED) - 3


def test_nothing_is_tried_again_while_an_erasure_is_not_finished(own: Settings) -> None:
    home = own.places()
    begin_erasure(home, "source", "kiwi/big.jpg", (), datetime.now(UTC))
    with pytest.raises(HomeInUse, match="is not finished"):
        select_retries(home, RejectFilter())
