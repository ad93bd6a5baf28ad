"""A disk that is full: told at once, tried again, and no half file is left."""

import errno
import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest

from store.errors import StorageUnavailable
from store.objects import faults
from store.objects.faults import Fault, fault_of, is_full
from store.objects.landing import archive_or_delete, archived_name, stat_object
from store.objects.location import StorageLocation
from store.objects.operations import change, download, overwrite, read, write_once
from store.objects.waits import Recovery, Wait, report_waits_to
from store.settings import load_settings
from store.tables.commits import commit
from store.tables.copies import CopySpool
from store.tables.files import write_file, write_large_file
from store.tables.handles import committed_batch, create_tables, open_table
from store.tables.schemas import REJECT_ROWS

DISK_BYTES = 2 * 2**20
BODY = os.urandom(200_000)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK_BYTES}"]
    mounted = subprocess.run(["mount", *options, "tmpfs", str(folder)], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Wait | Recovery]]:
    """What is told of waits, while storage is tried again for a moment."""
    monkeypatch.setattr(faults, "RETRY_DEADLINE_S", 0.3)
    heard: list[Wait | Recovery] = []
    report_waits_to(heard.append)
    yield heard
    report_waits_to(None)


def _fill(disk: Path, left_bytes: int = 0) -> Path:
    filling = disk / "filling"
    free_bytes = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    with filling.open("wb", buffering=0) as file:
        file.write(bytes(free_bytes - left_bytes))
    return filling


def _files(disk: Path) -> list[str]:
    return sorted(str(path.relative_to(disk)) for path in disk.rglob("*") if path.is_file())


def _rows(count: int) -> dict[str, pa.Array]:
    words = pa.array([os.urandom(16).hex() for _ in range(count)])
    times = pa.array([datetime(2026, 10, 3, tzinfo=UTC)] * count, REJECT_ROWS.schema.field("arrived_at").type)
    columns = dict.fromkeys(("source", "etag", "reason", "detail"), words)
    columns |= {"bytes": pa.array(range(count)), "batch": pa.array([1] * count)}
    return columns | {"arrived_at": times, "ingested_at": times, "first_visible_at": times}


def test_a_full_disk_is_told_at_once_and_keeps_no_half_file(
    disk: Path, tmp_path: Path, told: list[Wait | Recovery]
) -> None:
    home = load_settings(home=str(disk / "home")).places()
    create_tables(home)
    large = tmp_path / "large"
    large.write_bytes(os.urandom(2 * DISK_BYTES))
    overwrite(home.state, "there", b"as it was")
    _fill(disk, 100_000)
    before = _files(disk)
    day = {"ingest_date": "2026-10-03"}
    writes: list[Callable[[], object]] = [
        lambda: write_once(home.state, "plan", BODY),
        lambda: overwrite(home.state, "there", BODY),
        lambda: change(home.state, "there", lambda _: BODY),
        lambda: overwrite(home.state, "large", large),
        lambda: download(StorageLocation.at(str(tmp_path)), "large", disk / "downloaded"),
        lambda: write_file(home, REJECT_ROWS, _rows(10_000), day),
    ]
    for write in writes:
        told.clear()
        with pytest.raises(StorageUnavailable, match="no space is left on this disk, or of this quota"):
            write()
        (wait,) = told
        assert isinstance(wait, Wait)
        assert (wait.is_full, wait.patience_s) == (True, 0.3)
        assert wait.waited_s < 0.3
        assert _files(disk) == before
    assert read(home.state, "there") == b"as it was"


def test_a_commit_to_a_full_disk_is_there_once_when_room_is_made(
    disk: Path, told: list[Wait | Recovery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(faults, "RETRY_DEADLINE_S", 30.0)
    home = load_settings(home=str(disk / "home")).places()
    create_tables(home)
    filling = _fill(disk)
    threading.Timer(0.3, filling.unlink).start()
    commit(home, REJECT_ROWS, 1, "nonce", ())
    assert [type(each) for each in told] == [Wait, Recovery]
    table = open_table(home, REJECT_ROWS)
    assert table is not None
    assert (committed_batch(table), table.version()) == (1, 1)


def test_a_full_disk_for_temporary_files_is_waited_for(
    disk: Path, tmp_path: Path, told: list[Wait | Recovery], monkeypatch: pytest.MonkeyPatch
) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    create_tables(home)
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    parts = pa.table(_rows(20_000), schema=REJECT_ROWS.file_schema)
    filling = _fill(disk, 100_000)

    def write() -> int:
        return write_large_file(home, REJECT_ROWS, parts.to_batches, {"ingest_date": "2026-10-03"}).rows

    with pytest.raises(StorageUnavailable, match=rf"^Cannot write {disk}/.*: no space is left on this disk"):
        write()
    (wait,) = told
    assert isinstance(wait, Wait)
    assert wait.is_full
    assert _files(disk) == ["filling"]
    filling.unlink()
    assert write() == parts.num_rows


def test_a_copy_that_a_full_disk_cut_is_written_again_whole(
    disk: Path, told: list[Wait | Recovery], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(disk))
    row = {"image_id": "a", "source": "s/a", "etag": "e", "arrived_at": datetime.now(UTC), "batch": 1}
    with CopySpool() as spool:
        spool.add(row, BODY[:1000])
        filling = _fill(disk, 100_000)
        with pytest.raises(StorageUnavailable, match=r"^Cannot write a copy to the local disk: no space is left"):
            spool.add(row, BODY)
        filling.unlink()
        spool.add(row, BODY)
        assert [copy for part in spool.parts() for copy in part["jpeg"].to_pylist()] == [BODY[:1000], BODY]
    assert _files(disk) == []


def test_a_photo_that_is_archived_on_a_full_disk_stays_whole_where_it_is(
    disk: Path, tmp_path: Path, told: list[Wait | Recovery]
) -> None:
    landing, archive = StorageLocation.at(str(tmp_path / "landing")), StorageLocation.at(str(disk / "archive"))
    landing.create()
    (landing.directory / "1.jpg").write_bytes(BODY)
    landed = stat_object(landing, "1.jpg")
    assert landed is not None
    filling = _fill(disk, 50_000)
    with pytest.raises(StorageUnavailable, match="no space is left on this disk"):
        archive_or_delete(landing, archive, landed, "archive")
    assert _files(disk) == ["filling"]
    assert (landing.directory / "1.jpg").read_bytes() == BODY
    filling.unlink()
    assert archive_or_delete(landing, archive, landed, "archive")
    assert _files(disk) == [f"archive/{archived_name(landed)}"]
    assert _files(landing.directory) == []


def test_a_quota_is_a_full_disk() -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        error = OSError(number, os.strerror(number))
        assert is_full(error)
        assert fault_of(error) is Fault.TRANSIENT
    assert not is_full(OSError(errno.EIO, os.strerror(errno.EIO)))
