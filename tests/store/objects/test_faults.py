"""Every fault is of one kind, whichever library raised it, and only what may pass is tried again."""

import errno
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import obstore
import pyarrow as pa
import pytest
from botocore.config import Config
from botocore.exceptions import NoCredentialsError
from deltalake import DeltaTable

from features.rejects import Reason, Rejected
from store.errors import StorageRefused, StorageUnavailable
from store.objects.faults import Fault, fault_of, retry_storage
from store.objects.landing import LandedObject, ObjectAccessDenied, archive_or_delete, fetch
from store.objects.location import StorageLocation
from store.objects.operations import read, write_once
from store.settings import Settings
from store.tables.commits import commit
from store.tables.files import read_file, write_file
from store.tables.handles import create_tables, open_table
from store.tables.schemas import READ_ROWS, REJECT_ROWS
from tests.conftest import REGION
from tests.support.fault_proxy import Rule, Weather, faults, s3_error, set_rules, set_weather

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

BODY = os.urandom(100_000)

Ask = Callable[[StorageLocation], object]


def _ask_obstore(place: StorageLocation) -> object:
    return bytes(obstore.get(place.store, "photo").bytes())


def _ask_deltalake(place: StorageLocation) -> object:
    return DeltaTable(place.deltalake_uri, storage_options=place.table_options() | {"max_retries": "0"})


def _ask_botocore(place: StorageLocation) -> object:
    bucket, _ = place.bucket_and_prefix
    return _client(place).list_objects_v2(Bucket=bucket, Prefix="home/photo")


def _client(place: StorageLocation) -> "S3Client":
    once = Config(retries={"mode": "standard", "total_max_attempts": 1}, read_timeout=1)
    return boto3.client("s3", endpoint_url=place.s3_endpoint, region_name=REGION, config=once)


EVERY_LIBRARY = pytest.mark.parametrize("ask", [_ask_obstore, _ask_deltalake, _ask_botocore])


@pytest.fixture
def place(proxy: str, bucket: str, s3: "S3Client") -> StorageLocation:
    """A place with one photo, through the proxy."""
    s3.put_object(Bucket=bucket, Key="home/photo", Body=BODY)
    return StorageLocation.at(f"s3://{bucket}/home", proxy, REGION)


@pytest.fixture
def landed(place: StorageLocation, s3: "S3Client") -> LandedObject:
    bucket, _ = place.bucket_and_prefix
    etag = s3.head_object(Bucket=bucket, Key="home/photo")["ETag"].strip('"')
    return LandedObject("photo", len(BODY), etag, datetime(2026, 10, 3, tzinfo=UTC))


def _raised(work: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:
        work()
    return caught.value


@EVERY_LIBRARY
def test_what_goes_wrong_on_the_way_may_pass(place: StorageLocation, ask: Ask) -> None:
    endpoint = str(place.s3_endpoint)
    for weather in (Weather(error_503=1), Weather(error_500=1), Weather(reset=1), Weather(short_read=1)):
        set_weather(endpoint, weather)
        error = _raised(lambda: ask(place))
        assert fault_of(error) is Fault.TRANSIENT, error
        assert sum(faults(endpoint).values())


@EVERY_LIBRARY
def test_the_code_of_an_answer_decides(place: StorageLocation, ask: Ask) -> None:
    for code, status, fault in (
        ("ExpiredToken", 400, Fault.TRANSIENT),
        ("RequestTimeout", 400, Fault.TRANSIENT),
        ("OperationAborted", 409, Fault.TRANSIENT),
        ("NeverHeardOf", 400, Fault.NOT_UNDERSTOOD),
        ("NeverHeardOf", 405, Fault.NOT_UNDERSTOOD),
        ("MissingContentLength", 411, Fault.NOT_UNDERSTOOD),
        ("TooManyRequests", 429, Fault.TRANSIENT),
        ("NotImplemented", 501, Fault.REFUSED),
        ("NeverHeardOf", 501, Fault.REFUSED),
        ("PermanentRedirect", 301, Fault.REFUSED),
        ("NeverHeardOf", 507, Fault.TRANSIENT),
        ("AccessDenied", 403, Fault.REFUSED_OBJECT),
        ("InvalidObjectState", 403, Fault.UNFIT_OBJECT),
        ("InvalidAccessKeyId", 403, Fault.REFUSED),
        ("SignatureDoesNotMatch", 403, Fault.REFUSED),
        ("KMS.DisabledException", 400, Fault.REFUSED_OBJECT),
    ):
        set_rules(str(place.s3_endpoint), Rule("GET", "/", answer=status, body=s3_error(code, "Because."), times=-1))
        error = _raised(lambda: ask(place))
        assert fault_of(error) is fault, error


@EVERY_LIBRARY
def test_a_bucket_that_is_not_there_is_refused(s3_server: str, ask: Ask) -> None:
    error = _raised(lambda: ask(StorageLocation.at("s3://no-such-bucket-anywhere/home", s3_server, REGION)))
    assert fault_of(error) is Fault.REFUSED, error


def test_missing_and_changed_objects_are_told_from_faults(place: StorageLocation, tmp_path: Path) -> None:
    bucket, _ = place.bucket_and_prefix
    here = StorageLocation.at(str(tmp_path))
    obstore.put(here.store, "photo", BODY)
    for error in (
        _raised(lambda: obstore.get(place.store, "none")),
        _raised(lambda: obstore.get(here.store, "none")),
        _raised(lambda: _client(place).head_object(Bucket=bucket, Key="none")),
        _raised(lambda: _client(place).get_object(Bucket=bucket, Key="none")),
        _raised((tmp_path / "none").read_bytes),
        _raised((tmp_path / "photo/below").read_bytes),
    ):
        assert fault_of(error) is Fault.MISSING, error
    for error in (
        _raised(lambda: obstore.get(place.store, "photo", options={"if_match": '"other"'})),
        _raised(lambda: obstore.put(place.store, "photo", b"", mode="create")),
        _raised(lambda: obstore.put(here.store, "photo", b"", mode="create")),
        _raised(lambda: _client(place).delete_object(Bucket=bucket, Key="home/photo", IfMatch='"other"')),
    ):
        assert fault_of(error) is Fault.CHANGED, error


def test_what_cannot_be_brought_about_here_has_its_kind() -> None:
    assert fault_of(NoCredentialsError()) is Fault.REFUSED
    assert fault_of(PermissionError(errno.EACCES, "Permission denied")) is Fault.REFUSED_OBJECT
    for number in (errno.EIO, errno.ESTALE, errno.ENOSPC, errno.EAGAIN):
        assert fault_of(OSError(number, os.strerror(number))) is Fault.TRANSIENT


@pytest.mark.parametrize(
    ("code", "status"),
    [
        *(("AccessDenied", 403), ("NoSuchBucket", 403), ("NotImplemented", 501), ("InvalidArgument", 400)),
        *(("MethodNotAllowed", 405), ("MissingContentLength", 411)),
    ],
)
def test_what_is_refused_is_asked_for_once(
    place: StorageLocation, code: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # obstore and deltalake try every 5xx again by themselves, for half a second.
    monkeypatch.setattr("store.objects.location._INNER_RETRIES", 0)
    endpoint = str(place.s3_endpoint)
    home = Settings(home=place.uri, s3_endpoint=endpoint, s3_region=REGION).places()
    create_tables(home)
    refused = s3_error(code, "So it is.")
    # A second try would pass.
    rules = [Rule(method, "/home/", answer=status, body=refused) for method in ("GET", "PUT")]
    works: list[tuple[str, Callable[[], object]]] = [
        ("read", lambda: read(home.state, "word")),
        ("write", lambda: write_once(home.state, "word", b"")),
        ("open", lambda: open_table(home, REJECT_ROWS)),
        ("commit", lambda: commit(home, REJECT_ROWS, 1, "nonce", ())),
    ]
    for what, work in works:
        set_rules(endpoint, *rules)
        with pytest.raises(StorageRefused, match=rf"^Cannot {what} .*: So it is \({code}\)\.$"):
            work()


def test_a_bucket_of_another_region_is_told_at_once(place: StorageLocation) -> None:
    redirect = s3_error("PermanentRedirect", "Elsewhere.")
    set_rules(str(place.s3_endpoint), Rule("GET", "/home/", answer=301, body=redirect))
    with pytest.raises(StorageRefused, match="the bucket lies in another region; set s3_region, or leave it out"):
        read(place, "photo")


def test_a_fault_that_passes_is_waited_for_and_another_error_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.objects.faults.backoff_s", lambda: iter([0.0] * 5))
    tries: list[int] = []

    def work(faulty: int, error: Exception) -> int:
        tries.append(1)
        if len(tries) <= faulty:
            raise error
        return len(tries)

    assert retry_storage("read it", lambda: work(4, ConnectionResetError())) == 5
    tries.clear()
    with pytest.raises(StorageUnavailable, match=r"^Cannot read it: Stale file handle\.$") as unavailable:
        retry_storage("read it", lambda: work(5, OSError(errno.ESTALE, "Stale file handle")))
    assert unavailable.value.retryable
    for error in (ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "No such file")):
        tries.clear()
        with pytest.raises(type(error)):
            retry_storage("read it", lambda error=error: work(5, error))  # type: ignore[misc]
        assert len(tries) == 1


def test_a_stalled_answer_is_asked_for_again_and_a_slow_one_is_waited_for(
    place: StorageLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    endpoint = str(place.s3_endpoint)
    monkeypatch.setattr("store.objects.location.STALL_TIMEOUT", timedelta(seconds=0.3))
    set_weather(endpoint, Weather(stall=0.5, stall_s=60))
    for _ in range(3):
        assert read(place, "photo") == BODY
    assert faults(endpoint)["stall"]
    set_weather(endpoint, Weather(slow_body=1, slow_body_s=0.8))
    assert read(place, "photo") == BODY


def test_a_photo_is_rejected_only_for_what_storage_says_of_it(place: StorageLocation, landed: LandedObject) -> None:
    endpoint = str(place.s3_endpoint)
    archived = s3_error("InvalidObjectState", "The operation is not valid for the object's storage class.")
    set_rules(endpoint, Rule("GET", "/photo", answer=403, body=archived))
    with pytest.raises(Rejected, match=r"valid for the object's storage class \(InvalidObjectState\)\.$") as rejected:
        fetch(place, landed)
    assert rejected.value.reason is Reason.UNREADABLE
    # Unlike a permission, it says nothing of other photos.
    assert not isinstance(rejected.value, ObjectAccessDenied)

    set_rules(endpoint, Rule("GET", "/photo", answer=403, body=s3_error("InvalidAccessKeyId", "No such key.")))
    with pytest.raises(StorageRefused, match=r"^Cannot read s3://.*/home/photo: No such key \(InvalidAccessKeyId\)\.$"):
        fetch(place, landed)

    set_rules(endpoint, Rule("GET", "/photo", answer=400, body=s3_error("ExpiredToken", "Expired."), times=3))
    assert fetch(place, landed) == BODY

    set_weather(endpoint, Weather(short_read=0.7))
    assert [fetch(place, landed) for _ in range(5)] == [BODY] * 5
    assert faults(endpoint)["short_read"]


def test_a_photo_of_this_machine_is_rejected_only_for_what_is_known_of_it(tmp_path: Path) -> None:
    (tmp_path / "folder.jpg").mkdir()
    arrived_at = datetime(2026, 10, 3, tzinfo=UTC)
    expected = {"folder.jpg": Reason.REPLACED, "none.jpg": Reason.MISSING, "folder.jpg/" + "x" * 300: Reason.UNREADABLE}
    for key, reason in expected.items():
        with pytest.raises(Rejected) as rejected:
            fetch(StorageLocation.at(str(tmp_path)), LandedObject(key, 3, "e", arrived_at))
        assert rejected.value.reason is reason


def test_clearing_away_goes_on_after_faults_and_does_nothing_twice(
    place: StorageLocation, landed: LandedObject, s3: "S3Client"
) -> None:
    bucket, _ = place.bucket_and_prefix
    endpoint = str(place.s3_endpoint)
    archive = StorageLocation.at(f"s3://{bucket}/archive", endpoint, REGION)
    set_rules(endpoint, Rule("DELETE", "/photo", answer=400, body=s3_error("ExpiredToken", "Expired.")))
    # The first delete was carried out and answered with an error: the second finds nothing.
    assert not archive_or_delete(place, archive, landed, "archive")
    assert [entry["Key"] for entry in s3.list_objects_v2(Bucket=bucket)["Contents"]] == [f"archive/photo.{landed.etag}"]


def test_a_file_that_is_read_in_bad_weather_gives_each_row_once(
    place: StorageLocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("store.objects.location._INNER_RETRIES", 0)
    endpoint = str(place.s3_endpoint)
    home = Settings(home=place.uri, s3_endpoint=endpoint, s3_region=REGION).places()
    create_tables(home)
    count = 3 * READ_ROWS
    words = pa.array(["word"] * count)
    columns = dict.fromkeys(("source", "etag", "reason", "detail"), words)
    times = pa.array([datetime(2026, 10, 3, tzinfo=UTC)] * count, REJECT_ROWS.schema.field("arrived_at").type)
    columns |= {"bytes": pa.array(range(count)), "batch": pa.array([1] * count)}
    added = write_file(
        home, REJECT_ROWS, columns | {"arrived_at": times, "ingested_at": times}, {"ingest_date": "2026-10-03"}
    )
    set_weather(endpoint, Weather(short_read=0.3, reset=0.2))
    for _ in range(3):
        read_rows = read_file(home, REJECT_ROWS, added.path, ["bytes"])
        assert [number for rows in read_rows for number in rows["bytes"].to_pylist()] == list(range(count))
    assert faults(endpoint)["short_read"]
