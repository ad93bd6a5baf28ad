"""What cannot be cleared away stays where it is and stops nobody; a permission that is lost stops the stream."""

import os
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ops.status.status import read_status
from store.errors import StorageRefused, StorageUnavailable
from store.home import Home
from store.objects.landing import Cleaning, LandedObject, list_landed
from store.settings import Settings, load_settings
from store.state.heartbeat import read_heartbeat
from streaming.cleaning.clearing import Clearing
from tests.conftest import REGION
from tests.support.fault_proxy import Rule, s3_error, set_rules
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, outcomes

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

BODIES = {f"kiwi/{number}.jpg": jpeg(seed=number) for number in range(4)}
SLOW_DOWN = s3_error("SlowDown", "Please reduce your request rate.")
# Of the same kind, but S3's client raises it at once.
ABORTED = s3_error("OperationAborted", "A conflicting operation is in progress.")
DENIED = s3_error("AccessDenied", "Access Denied")


def _rules(proxy: str, path: str, status: int, body: str) -> None:
    set_rules(proxy, *(Rule(method, path, answer=status, body=body, times=-1) for method in ("PUT", "DELETE")))


def _land(s3: "S3Client", home: Home, keys: list[str]) -> None:
    bucket, prefix = home.landing.bucket_and_prefix
    for key in keys:
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=BODIES[key])


def _keys(home: Home) -> list[str]:
    return sorted(landed.key for landed in list_landed(home.landing))


@pytest.fixture
def on_s3(proxy: str, bucket: str, s3: "S3Client") -> Home:
    """A home in a bucket, through the proxy, with photos in its landing."""
    home = load_settings(home=f"s3://{bucket}/home", s3_endpoint=proxy, s3_region=REGION).places()
    _land(s3, home, list(BODIES))
    return home


@pytest.fixture
def on_disk(tmp_path: Path) -> Home:
    home = load_settings(home=str(tmp_path / "home")).places()
    for key, body in BODIES.items():
        path = home.landing.directory / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(body)
    return home


class _Clearer:
    """A run's clearing."""

    def __init__(self, home: Home, how: Cleaning = "archive", patience_s: float = 0.0) -> None:
        self._home = home
        self.clearing = Clearing(home, how, timedelta(seconds=patience_s))

    def clear(self) -> list[str]:
        """Everything in the landing; returns the keys to try again."""
        with ThreadPoolExecutor(4) as pool:
            objects: list[LandedObject] = list(list_landed(self._home.landing))
            return [landed.key for landed in self.clearing.clear(pool, self._home.landing, objects)]


@pytest.mark.parametrize(
    ("status", "body"),
    [(503, SLOW_DOWN), (403, DENIED), (403, s3_error("InvalidObjectState", "It is archived."))],
    ids=["fails", "refused", "unfit"],
)
def test_one_object_that_s3_does_not_clear_away_is_left_for_an_hour(
    on_s3: Home, proxy: str, monkeypatch: pytest.MonkeyPatch, status: int, body: str
) -> None:
    _rules(proxy, r"/archive/kiwi/0\.", status, body)
    run = _Clearer(on_s3)
    assert run.clear() == []
    assert _keys(on_s3) == ["kiwi/0.jpg"]
    assert run.clearing.uncleared == 1

    set_rules(proxy)
    run.clear()
    assert _keys(on_s3) == ["kiwi/0.jpg"]
    monkeypatch.setattr("streaming.cleaning.clearing.SKIPPED_FOR", timedelta(0))
    run.clear()
    assert (_keys(on_s3), run.clearing.uncleared) == ([], 0)


def test_what_may_pass_is_to_be_tried_again_first(on_s3: Home, proxy: str) -> None:
    _rules(proxy, r"/archive/kiwi/0\.", 409, ABORTED)
    run = _Clearer(on_s3, patience_s=60)
    assert run.clear() == ["kiwi/0.jpg"]
    assert run.clear() == ["kiwi/0.jpg"]
    set_rules(proxy)
    assert run.clear() == []
    assert (_keys(on_s3), run.clearing.uncleared) == ([], 0)


@pytest.mark.parametrize(
    ("status", "body", "error"),
    [(409, ABORTED, StorageUnavailable), (403, DENIED, StorageRefused)],
    ids=["fails", "refused"],
)
@pytest.mark.parametrize("how", ["archive", "delete"])
def test_an_object_alone_is_told_from_storage_by_a_probe(
    on_s3: Home, proxy: str, s3: "S3Client", how: Cleaning, status: int, body: str, error: type[Exception]
) -> None:
    bucket, _ = on_s3.landing.bucket_and_prefix
    for key in list(BODIES)[1:]:
        s3.delete_object(Bucket=bucket, Key=f"home/landing/{key}")
    folder = "archive" if how == "archive" else "landing"
    _rules(proxy, rf"/{folder}/kiwi/0\.", status, body)
    alone = _Clearer(on_s3, how)
    assert (alone.clear(), alone.clearing.uncleared) == ([], 1)

    # The proxy interferes with answers only: what it lets S3 delete is put there again.
    _land(s3, on_s3, ["kiwi/0.jpg"])
    _rules(proxy, rf"/{folder}/", status, body)
    with pytest.raises(
        error, match=r"^Cannot clear away s3://.*/kiwi/0\.jpg: .* \((OperationAborted|AccessDenied)\)\.$"
    ):
        _Clearer(on_s3, how).clear()


@contextmanager
def _immutable(path: Path) -> Iterator[None]:
    """The file cannot be moved or deleted, not even by root."""
    if os.geteuid() != 0 or subprocess.run(["chattr", "+i", path], capture_output=True).returncode:
        pytest.skip("making a file immutable needs root and a file system that can")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


@pytest.mark.parametrize("how", ["archive", "delete"])
@pytest.mark.parametrize("is_alone", [False, True], ids=["beside others", "alone"])
def test_one_file_that_a_disk_does_not_clear_away_is_left(on_disk: Home, how: Cleaning, is_alone: bool) -> None:
    landing = on_disk.landing.directory
    for key in list(BODIES)[1:] if is_alone else ():
        (landing / key).unlink()
    with _immutable(landing / "kiwi/0.jpg"):
        run = _Clearer(on_disk, how)
        assert (run.clear(), run.clearing.uncleared) == ([], 1)
    assert _keys(on_disk) == ["kiwi/0.jpg"]
    # Nothing of the probe is left.
    assert [path.name for path in landing.rglob("*") if path.is_file()] == ["0.jpg"]
    assert not list(on_disk.root.directory.rglob(".fruits*"))


def test_a_disk_that_clears_nothing_away_stops_the_stream(on_disk: Home) -> None:
    on_disk.archive.directory.mkdir()
    with (
        _immutable(on_disk.archive.directory),
        pytest.raises(StorageRefused, match=r"^Cannot clear away file://.*jpg: "),
    ):
        _Clearer(on_disk).clear()
    assert _keys(on_disk) == sorted(BODIES)


@pytest.mark.processes
def test_a_stream_goes_on_beside_an_object_that_it_cannot_clear_away_and_says_how_many(
    s3_settings: MakeSettings, drain: Drain, proxy: str, s3: "S3Client"
) -> None:
    settings = s3_settings(s3_endpoint=proxy, clean="archive", storage_patience="300ms")
    home = settings.places()
    first, *others = BODIES
    _land(s3, home, [first, *others[:1]])
    _rules(proxy, r"/archive/kiwi/0\.", 409, ABORTED)
    # Left by the run that made its row.
    drain(settings)
    assert _keys(home) == [first]
    assert read_status(home, verify=False).uncleared == 1

    # Left by a listing of the next one, which has cleared away nothing before.
    _rules(proxy, r"/archive/kiwi/0\.", 403, DENIED)
    _land(s3, home, others[1:])
    drain(settings)
    assert _keys(home) == [first]
    assert {outcome["key"] for outcome in outcomes(settings)} == set(BODIES)
    status = read_status(home, verify=True)
    assert (status.uncleared, status.broken) == (1, [])
    heartbeat = read_heartbeat(home)
    assert heartbeat is not None
    assert heartbeat.vitals is not None
    assert heartbeat.vitals.uncleared == 1

    set_rules(proxy)
    drain(settings)
    assert (_keys(home), read_status(home, verify=False).uncleared) == ([], 0)
