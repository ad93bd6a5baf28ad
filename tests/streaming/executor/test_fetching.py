"""One object that cannot be read costs its own outcome; only storage as a whole raises."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from features.rejects import Reason, Rejected
from store.errors import StorageRefused, StorageUnavailable
from store.objects.landing import LandedObject, ObjectAccessDenied, archived_name, list_landed
from store.objects.location import StorageLocation
from streaming.executor.fetching import ReadLocations, fetch_all
from tests.conftest import REGION
from tests.support.fault_proxy import Rule, Weather, s3_error, set_rules, set_weather

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

ROOT = Path(__file__).parents[3]

PATIENCE_S = 0.5
# What a loaded machine may add to a few times of a second or two.
SLACK_S = 8.0
BODIES = {f"kiwi/{number}.jpg": bytes([number]) * 1000 for number in range(6)}
# Reading from its beginning is an input/output error, whoever reads.
UNREADABLE = "/proc/self/mem"
SLOW_DOWN = s3_error("SlowDown", "Please reduce your request rate.")


@pytest.fixture
def on_disk(tmp_path: Path) -> ReadLocations:
    landing = StorageLocation.at(str(tmp_path / "landing"))
    for key, body in BODIES.items():
        path = landing.directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return ReadLocations(landing, StorageLocation.at(str(tmp_path / "archive")), frozenset(), PATIENCE_S)


@pytest.fixture
def on_s3(proxy: str, bucket: str, s3: "S3Client") -> ReadLocations:
    """The same in a bucket, through the proxy."""
    for key, body in BODIES.items():
        s3.put_object(Bucket=bucket, Key=f"landing/{key}", Body=body)
    landing, archive = (StorageLocation.at(f"s3://{bucket}/{name}", proxy, REGION) for name in ("landing", "archive"))
    return ReadLocations(landing, archive, frozenset(), PATIENCE_S)


def _listed(shelf: ReadLocations) -> list[LandedObject]:
    return sorted(list_landed(shelf.landing), key=lambda landed: landed.key)


def _outcomes(shelf: ReadLocations, objects: list[LandedObject]) -> tuple[dict[str, bytes | Rejected], list[str]]:
    """What became of each object, and their keys in the order in which that was known."""
    found = [(fetched.landed.key, fetched.body) for fetched in fetch_all(shelf, objects)]
    assert sorted(key for key, _ in found) == sorted(landed.key for landed in objects)
    return dict(found), [key for key, _ in found]


def _reasons(found: dict[str, bytes | Rejected]) -> dict[str, tuple[Reason, str]]:
    return {key: (body.reason, body.detail) for key, body in found.items() if isinstance(body, Rejected)}


def _make_unreadable(shelf: ReadLocations, *keys: str) -> None:
    for key in keys:
        path = shelf.landing.directory / key
        path.unlink()
        path.symlink_to(UNREADABLE)


@contextmanager
def _hanging(shelf: ReadLocations, *keys: str) -> Iterator[list[Path]]:
    """Pipes in the places of files: opening one waits for ever, until the end."""
    paths = [shelf.landing.directory / key for key in keys]
    for path in paths:
        path.unlink()
        os.mkfifo(path)
    try:
        yield paths
    finally:
        for path in paths:
            _release(path)


def _release(path: Path) -> None:
    with suppress(OSError):
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def test_files_that_a_disk_cannot_read_come_last_and_cost_their_time_together(on_disk: ReadLocations) -> None:
    objects = _listed(on_disk)
    bad = [landed.key for landed in objects[:4]]
    _make_unreadable(on_disk, *bad)
    began_s = time.monotonic()
    found, order = _outcomes(on_disk, objects)
    assert PATIENCE_S <= time.monotonic() - began_s < 2 * PATIENCE_S + SLACK_S / 2
    assert sorted(order[:2]) == [landed.key for landed in objects[4:]]
    assert [found[key] for key in order[:2]] == [BODIES[key] for key in order[:2]]
    detail = "It could not be read for 0.5 s, while other photos could: Input/output error."
    assert _reasons(found) == dict.fromkeys(bad, (Reason.UNREADABLE, detail))
    # They count as refused ones do.
    assert all(isinstance(found[key], ObjectAccessDenied) for key in bad)


def test_a_file_that_can_be_read_again_in_time_is_read(on_disk: ReadLocations) -> None:
    objects = _listed(on_disk)
    [key, *_] = BODIES
    path = on_disk.landing.directory / key
    aside = path.with_name("aside")
    path.rename(aside)
    path.symlink_to(UNREADABLE)
    mending = threading.Timer(PATIENCE_S / 3, lambda: aside.replace(path))
    mending.start()
    found, order = _outcomes(on_disk, objects)
    mending.join()
    assert found == BODIES
    assert order[-1] == key


def test_reads_that_hang_hold_up_no_other_and_one_that_ends_in_time_has_its_outcome(
    on_disk: ReadLocations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.executor.fetching.HANGS_AFTER_S", 0.3)
    objects = _listed(on_disk)
    hang = [landed.key for landed in objects[:3]]
    with _hanging(on_disk, *hang) as paths:
        releasing = threading.Timer(PATIENCE_S / 2, _release, paths[:1])
        began_s = time.monotonic()
        releasing.start()
        found, order = _outcomes(on_disk, objects)
        assert time.monotonic() - began_s < 2 * PATIENCE_S + SLACK_S / 2
    assert set(order[:3]) == {landed.key for landed in objects[3:]}
    # The pipe is no longer the file that was listed.
    assert order[3] == hang[0]
    no_answer = (Reason.UNREADABLE, "It could not be read for 0.5 s, while other photos could: no answer came.")
    assert _reasons(found) == {
        hang[0]: (Reason.REPLACED, "Another version stood there when it was read."),
        **dict.fromkeys(hang[1:], no_answer),
    }


def test_many_reads_that_hang_cost_their_time_together(on_disk: ReadLocations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("streaming.executor.fetching.HANGS_AFTER_S", 0.3)
    for number in range(30):
        (on_disk.landing.directory / f"kiwi/more-{number}.jpg").write_bytes(b"x")
    objects = _listed(on_disk)
    hang = [landed.key for landed in objects if "more" in landed.key]
    with _hanging(on_disk, *hang):
        began_s = time.monotonic()
        found, order = _outcomes(on_disk, objects)
        assert time.monotonic() - began_s < 30 * 0.1 + 2 * PATIENCE_S + SLACK_S / 2
    assert set(order[: len(BODIES)]) == set(BODIES)
    assert set(_reasons(found)) == set(hang)


@pytest.mark.parametrize("hangs", [False, True], ids=["errors", "hangs"])
def test_a_disk_that_answers_for_nothing_raises_and_names_an_object(
    on_disk: ReadLocations, monkeypatch: pytest.MonkeyPatch, hangs: bool
) -> None:
    monkeypatch.setattr("streaming.executor.fetching.HANGS_AFTER_S", 0.3)
    objects = _listed(on_disk)
    if hangs:
        with _hanging(on_disk, *BODIES):
            # A pipe is no file; what else lies there hangs as well.
            _make_unreadable(on_disk, "kiwi/0.jpg")
            with pytest.raises(StorageUnavailable, match=r"^Cannot read file://.*/kiwi/1\.jpg for 0\.5 s, nor any"):
                list(fetch_all(on_disk, objects[1:]))
    else:
        _make_unreadable(on_disk, *BODIES)
        with pytest.raises(
            StorageUnavailable,
            match=r"^Cannot read file://.*\.jpg for 0\.5 s, nor any other photo of the landing: Input/output error\.$",
        ):
            list(fetch_all(on_disk, objects))


def test_an_object_alone_in_its_task_is_told_from_storage_by_another_of_the_landing(on_disk: ReadLocations) -> None:
    objects = _listed(on_disk)
    _make_unreadable(on_disk, "kiwi/0.jpg")
    found, _ = _outcomes(on_disk, objects[:1])
    assert _reasons(found)["kiwi/0.jpg"][0] is Reason.UNREADABLE


def test_an_object_alone_in_the_landing_is_told_from_storage_by_the_listing_or_the_archive(
    on_disk: ReadLocations,
) -> None:
    landing, archive = on_disk.landing.directory, on_disk.archive.directory
    objects = _listed(on_disk)
    for key in list(BODIES)[2:]:
        (landing / key).unlink()
    _make_unreadable(on_disk, *list(BODIES)[:2])
    # Nothing tells two bad files from a bad disk.
    with pytest.raises(StorageUnavailable):
        list(fetch_all(on_disk, objects[:2]))
    archive.mkdir()
    (archive / "old.jpg").write_bytes(b"x")
    found, _ = _outcomes(on_disk, objects[:2])
    assert len(_reasons(found)) == 2

    (archive / "old.jpg").unlink()
    (landing / "kiwi/1.jpg").unlink()
    found, _ = _outcomes(on_disk, objects[:1])
    assert len(_reasons(found)) == 1


def test_what_the_archive_hands_out_says_nothing_of_the_landing(on_disk: ReadLocations) -> None:
    memory = Path("/dev/shm")
    landing = on_disk.landing.directory
    if not memory.is_dir() or memory.stat().st_dev == landing.stat().st_dev:
        pytest.skip("/dev/shm is no file system of its own here")
    retried, *bad = _listed(on_disk)
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        archived = Path(folder, archived_name(retried))
        archived.parent.mkdir(parents=True)
        shutil.move(landing / retried.key, archived)
        _make_unreadable(on_disk, *(landed.key for landed in bad))
        shelf = replace(on_disk, archive=StorageLocation.at(folder), archived=frozenset({retried.key}))
        fetching = fetch_all(shelf, [retried, *bad])
        assert next(fetching).body == BODIES[retried.key]
        with pytest.raises(StorageUnavailable):
            next(fetching)


def test_an_archived_copy_of_another_length_is_final_at_once(
    on_disk: ReadLocations, on_s3: ReadLocations, s3: "S3Client"
) -> None:
    for shelf in (on_disk, on_s3):
        wrong, right, *_ = _listed(shelf)
        name = archived_name(wrong)
        if shelf.landing.is_local:
            path = shelf.archive.directory / name
            path.parent.mkdir(parents=True)
            path.write_bytes(b"completed later" * 100)
            (shelf.landing.directory / wrong.key).unlink()
        else:
            bucket, _ = shelf.archive.bucket_and_prefix
            s3.put_object(Bucket=bucket, Key=f"archive/{name}", Body=b"completed later" * 100)
            s3.delete_object(Bucket=bucket, Key=f"landing/{wrong.key}")
        began_s = time.monotonic()
        shelf = replace(shelf, archived=frozenset({wrong.key}), patience_s=120.0)
        found, _ = _outcomes(shelf, [wrong, right])
        assert time.monotonic() - began_s < SLACK_S
        detail = (
            "Its copy in the archive has 1500 bytes, but the photo had 1000 when it landed: put the whole file back "
            "there and retry, or upload it again."
        )
        assert _reasons(found) == {wrong.key: (Reason.UNREADABLE, detail)}


def test_a_key_that_s3_always_fails_on_is_rejected_beside_others_and_alone(on_s3: ReadLocations) -> None:
    objects = _listed(on_s3)
    endpoint = str(on_s3.landing.s3_endpoint)
    set_rules(endpoint, Rule("GET", r"/landing/kiwi/0\.jpg", answer=503, body=SLOW_DOWN, times=-1))
    detail = "It could not be read for 0.5 s, while other photos could: Please reduce your request rate (SlowDown)."
    for some in (objects, objects[:1]):
        found, order = _outcomes(on_s3, some)
        assert order[-1] == "kiwi/0.jpg"
        assert _reasons(found) == {"kiwi/0.jpg": (Reason.UNREADABLE, detail)}
        assert isinstance(found["kiwi/0.jpg"], ObjectAccessDenied)


def test_s3_that_fails_on_every_photo_raises_and_names_one(on_s3: ReadLocations) -> None:
    objects = _listed(on_s3)
    set_rules(str(on_s3.landing.s3_endpoint), Rule("GET", r"/landing/kiwi/", answer=503, body=SLOW_DOWN, times=-1))
    with pytest.raises(
        StorageUnavailable, match=r"^Cannot read s3://.*\.jpg for 0\.5 s, nor any other photo of .*\(SlowDown\)\.$"
    ):
        list(fetch_all(on_s3, objects))


def test_s3_that_refuses_everybody_raises_at_once(on_s3: ReadLocations) -> None:
    objects = _listed(on_s3)
    unknown = s3_error("InvalidAccessKeyId", "The access key does not exist.")
    set_rules(str(on_s3.landing.s3_endpoint), Rule("GET", r"/landing/kiwi/", answer=403, body=unknown, times=-1))
    with pytest.raises(StorageRefused, match=r"^Cannot read s3://.*\.jpg: The access key .* \(InvalidAccessKeyId\)"):
        list(fetch_all(replace(on_s3, patience_s=120.0), objects))


def test_a_body_that_stalls_holds_up_no_other(on_s3: ReadLocations, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("store.objects.location.STALL_TIMEOUT", timedelta(seconds=0.3))
    objects = _listed(on_s3)
    stalled = Weather(slow_body=1, slow_body_s=60, match=r"GET .*/landing/kiwi/0\.jpg")
    set_weather(str(on_s3.landing.s3_endpoint), stalled)
    began_s = time.monotonic()
    found, order = _outcomes(on_s3, objects)
    assert time.monotonic() - began_s < PATIENCE_S + SLACK_S
    assert order[-1] == "kiwi/0.jpg"
    assert set(_reasons(found)) == {"kiwi/0.jpg"}


def test_a_read_that_hangs_ends_the_worker_at_a_tasks_first_try(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    work = (
        "import sys\nfrom datetime import UTC, datetime\nfrom streaming.executor import fetching\n"
        "from store.objects.landing import LandedObject\nfrom store.objects.location import StorageLocation\n"
        "fetching.ENDS_AFTER_S = 0.1\n"
        "landing, photo = StorageLocation.at(sys.argv[1]), LandedObject('pipe.jpg', 1, 'e', datetime.now(UTC))\n"
        "list(fetching.fetch_all(fetching.ReadLocations(landing, landing, (), 60.0), [photo], may_end_worker=True))\n"
    )
    ended = subprocess.run([sys.executable, "-c", work, str(tmp_path)], timeout=60, capture_output=True, cwd=ROOT)
    assert (ended.returncode, ended.stderr) == (-signal.SIGALRM, b"")
