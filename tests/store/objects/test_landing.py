"""What lies in a landing besides photos stops nobody, and what cannot be cleared away stays."""

import os
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from features.rejects import Reason, Rejected
from store.errors import StorageRefused
from store.objects.landing import Cleaning, LandedObject, archive_or_delete, fetch, key_group, list_landed
from store.objects.location import StorageLocation
from store.objects.versions import list_versions
from tests.conftest import REGION
from tests.support.fault_proxy import Rule, s3_error, set_rules

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ALL = 10_000


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "landing").mkdir()
    return tmp_path / "landing"


def _listed(directory: Path) -> list[LandedObject]:
    return sorted(list_landed(StorageLocation.at(str(directory))), key=lambda landed: landed.key)


def test_a_listing_passes_over_what_is_no_file(directory: Path) -> None:
    (directory / "photo.jpg").write_bytes(b"x")
    (directory / "linked.jpg").symlink_to("photo.jpg")
    (directory / "itself.jpg").symlink_to("itself.jpg")
    (directory / "nowhere.jpg").symlink_to("gone.jpg")
    (directory / "through a file.jpg").symlink_to("photo.jpg/below")
    (directory / "endless.jpg").symlink_to("/dev/zero")
    os.mkfifo(directory / "pipe.jpg")
    assert [landed.key for landed in _listed(directory)] == ["linked.jpg", "photo.jpg"]


def test_a_listing_passes_over_what_cannot_be_looked_at_beside_what_can_be(directory: Path) -> None:
    bad = directory / "kiwi/bad.jpg"
    bad.parent.mkdir()
    # Of a link with a target of such a name nothing can be learned, whoever asks.
    bad.symlink_to("x" * 300)
    (directory / "photo.jpg").write_bytes(b"x")
    (directory / "kiwi/good.jpg").write_bytes(b"x")
    assert [landed.key for landed in _listed(directory)] == ["kiwi/good.jpg", "photo.jpg"]
    # Who erases must not miss one.
    with pytest.raises(StorageRefused):
        list(list_versions(StorageLocation.at(str(directory))))
    bad.unlink()
    bad.write_bytes(b"x")
    assert [landed.key for landed in _listed(directory)] == ["kiwi/bad.jpg", "kiwi/good.jpg", "photo.jpg"]


def test_a_name_too_long_to_be_told_is_a_reject(directory: Path) -> None:
    # Of a code page of the east: 100 bytes on disk, four times as many once they are escaped.
    (directory / os.fsdecode(b"\xc6" * 100 + b".jpg")).write_bytes(b"x")
    [landed] = _listed(directory)
    with pytest.raises(Rejected) as rejected:
        fetch(StorageLocation.at(str(directory)), landed)
    assert rejected.value.reason is Reason.UNREADABLE


@pytest.mark.parametrize("cleaning", ["archive", "delete"])
def test_what_cannot_be_moved_stays(directory: Path, tmp_path: Path, cleaning: Cleaning) -> None:
    long_name = "x" * 240 + ".jpg"
    not_unicode = os.fsdecode(b"\xff.jpg")
    for name in (long_name, not_unicode):
        (directory / name).write_bytes(b"x")
    landing, archive = StorageLocation.at(str(directory)), StorageLocation.at(str(tmp_path / "archive"))
    cleared = {landed.key: archive_or_delete(landing, archive, landed, cleaning) for landed in _listed(directory)}
    # Its name with the etag is too long for an archive.
    assert cleared.pop(long_name) == (cleaning == "delete")
    assert list(cleared.values()) == [False]
    assert (directory / not_unicode).exists()


@pytest.mark.parametrize(
    ("code", "stops"), [("InvalidObjectState", False), ("InvalidRequest", False), ("AccessDenied", True)]
)
def test_one_object_that_s3_cannot_copy_stays_and_a_lost_permission_is_told(
    proxy: str, s3: "S3Client", bucket: str, code: str, stops: bool
) -> None:
    etag = s3.put_object(Bucket=bucket, Key="landing/a.jpg", Body=b"x")["ETag"].strip('"')
    landed = LandedObject("a.jpg", 1, etag, datetime.now(UTC))
    places = (StorageLocation.at(f"s3://{bucket}/{name}", proxy, REGION) for name in ("landing", "archive"))
    set_rules(proxy, Rule("PUT", r"/archive/", answer=403, body=s3_error(code, "Because."), times=-1))
    clear: Callable[[], bool] = lambda: archive_or_delete(*places, landed, "archive")  # noqa: E731 - once for both
    if stops:
        with pytest.raises(StorageRefused, match=r"Cannot clear away .*a\.jpg: Because"):
            clear()
    else:
        assert clear() is False
    assert s3.head_object(Bucket=bucket, Key="landing/a.jpg")["ContentLength"] == 1


def test_a_file_that_shrinks_while_it_is_read_is_replaced(directory: Path) -> None:
    path = directory / "photo.jpg"
    path.touch()
    os.truncate(path, 256 * 2**20)
    [landed] = _listed(directory)

    def cut_once_it_is_open() -> None:
        while str(path) not in {os.path.realpath(file) for file in Path("/proc/self/fd").iterdir()}:
            pass
        os.truncate(path, 1000)

    cutting = threading.Thread(target=cut_once_it_is_open, daemon=True)
    cutting.start()
    with pytest.raises(Rejected) as rejected:
        fetch(StorageLocation.at(str(directory)), landed)
    cutting.join()
    assert rejected.value.reason is Reason.REPLACED


def test_an_object_of_another_size_than_announced_is_not_taken(s3_server: str, s3: "S3Client", bucket: str) -> None:
    etag = s3.put_object(Bucket=bucket, Key="landing/a.jpg", Body=b"x" * ALL)["ETag"].strip('"')
    with pytest.raises(Rejected, match="10000 bytes, not 3 as announced") as rejected:
        fetch(
            StorageLocation.at(f"s3://{bucket}/landing", s3_server, REGION),
            LandedObject("a.jpg", 3, etag, datetime.now(UTC)),
        )
    assert rejected.value.reason is Reason.REPLACED


@pytest.mark.parametrize(
    "pattern", [r"^(?P<label>[^/]+)/", r"^(?P<label>\w+)/", "^(?P<label>p\u00ea.*)/", "^(?P<label>pe\u0302.*)/"]
)
def test_a_label_is_the_same_in_whichever_form_its_accents_are_written(pattern: str) -> None:
    keys = ["p\u00eache/e\u0301.jpg", "pe\u0302che/1.jpg"] if "\u0302" not in pattern else ["pe\u0302che/1.jpg"]
    assert {key_group(pattern, key, "label") for key in keys} == {"p\u00eache"}
    assert key_group(pattern, "p", "label") is None
