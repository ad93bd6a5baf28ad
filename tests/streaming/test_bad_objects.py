"""An object that storage does not hand out costs itself its outcome; photos beside it have their rows."""

import io
import os
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from ops.rejects import RejectFilter, select_retries
from ops.status.status import read_status
from store.errors import BatchFailed, StorageRefused
from store.settings import Settings
from store.state.plans import read_result
from store.state.retries import request_retries
from tests.support.crashing_decoder.sitecustomize import SEGFAULT
from tests.support.fault_proxy import Rule, s3_error, set_rules
from tests.support.pictures import jpeg, text_file, truncated_jpeg
from tests.support.stream_run import Run, drop, outcomes, plan_all, rows

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

PHOTOS = {f"kiwi/{number}.jpg": jpeg(seed=number) for number in range(20)}
# S3's client raises it at once.
ABORTED = s3_error("OperationAborted", "A conflicting operation is in progress.")
DENIED = s3_error("AccessDenied", "Access Denied")
# Reading from its beginning is an input/output error, whoever reads.
UNREADABLE = "/proc/self/mem"
EIO = "It could not be read for 1 s, while other photos could: Input/output error."
SILENT = "It could not be read for 1 s, while other photos could: no answer came."


def _put(s3: "S3Client", settings: Settings, files: dict[str, bytes]) -> None:
    bucket, prefix = settings.places().landing.bucket_and_prefix
    for key, body in files.items():
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=body)


def _some(count: int, start: int = 0) -> dict[str, bytes]:
    return dict(list(PHOTOS.items())[start : start + count])


def _reasons(settings: Settings) -> dict[str, tuple[str, str]]:
    found = outcomes(settings)
    assert len({outcome["key"] for outcome in found}) == len(found)
    assert read_status(settings.places(), verify=True).broken == []
    return {one["key"]: (one["reason"], one["detail"]) for one in found if one["reason"]}


def _release(paths: Iterable[Path]) -> None:
    for path in paths:
        with suppress(OSError):
            os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))


def _crashing() -> bytes:
    buffer = io.BytesIO()
    Image.open(io.BytesIO(jpeg(seed=50))).save(buffer, "JPEG", comment=SEGFAULT)
    return buffer.getvalue()


@pytest.mark.processes
def test_rejects_whose_archived_file_is_another_by_now_or_cannot_be_read_stop_nobody(
    local_settings: MakeSettings, drain: Drain
) -> None:
    settings = local_settings(clean="archive", storage_patience="1s")
    home = settings.places()
    drop(settings, _some(2) | {"pear/cut.jpg": truncated_jpeg(), "pear/notes.jpg": text_file()})
    drain(settings)
    [cut] = home.archive.directory.glob("pear/cut.*")
    cut.write_bytes(jpeg(seed=99))
    [notes] = home.archive.directory.glob("pear/notes.*")
    notes.unlink()
    notes.symlink_to(UNREADABLE)

    request_retries(home, home.landing.source, select_retries(home, RejectFilter()).retries, 0)
    drop(settings, _some(2, start=2))
    began_s = time.monotonic()
    drain(settings)
    assert time.monotonic() - began_s < 30
    whole = len(jpeg(seed=99))
    assert _reasons(settings) == {
        "pear/cut.jpg": (
            "unreadable",
            f"Its copy in the archive has {whole} bytes, but the photo had {len(truncated_jpeg())} when it landed: "
            "put the whole file back there and retry, or upload it again.",
        ),
        "pear/notes.jpg": ("unreadable", EIO),
    }
    assert {outcome["key"] for outcome in outcomes(settings) if outcome["image_id"]} == set(_some(4))


@pytest.mark.processes
def test_files_that_cannot_be_read_or_hang_cost_themselves_an_outcome_on_every_try_of_their_task(
    local_settings: MakeSettings, drain: Drain
) -> None:
    settings = local_settings(storage_patience="1s")
    landing = settings.places().landing.directory
    bad = {f"pear/{number}.jpg": jpeg(seed=40 + number) for number in range(4)}
    drop(settings, _some(3) | bad | {"kiwi/crashing.jpg": _crashing()})
    plan_all(settings)
    for key in bad:
        (landing / key).unlink()
    hanging = [landing / "pear/0.jpg", landing / "pear/1.jpg"]
    for path in hanging:
        os.mkfifo(path)
    for number in (2, 3):
        (landing / f"pear/{number}.jpg").symlink_to(UNREADABLE)
    try:
        drain(settings)
    finally:
        _release(hanging)
    # To a listing the links are new files, and have outcomes of their own.
    first = rows(
        settings, "SELECT split_part(source, '/landing/', 2) AS key, reason, detail FROM rejects WHERE batch = 1"
    )
    assert {row["key"]: (row["reason"], row["detail"]) for row in first} == {
        "kiwi/crashing.jpg": ("decoder_crashed", "The decoder was ended by SIGSEGV."),
        "pear/0.jpg": ("unreadable", SILENT),
        "pear/1.jpg": ("unreadable", SILENT),
        "pear/2.jpg": ("unreadable", EIO),
        "pear/3.jpg": ("unreadable", EIO),
    }
    assert {outcome["key"] for outcome in outcomes(settings) if outcome["image_id"]} == set(_some(3))
    assert read_status(settings.places(), verify=True).broken == []


@pytest.mark.processes
def test_single_photos_that_s3_does_not_hand_out_are_rejects_and_most_or_all_of_them_stop_the_stream(
    s3_settings: MakeSettings, drain: Drain, proxy: str, s3: "S3Client"
) -> None:
    settings = s3_settings(s3_endpoint=proxy, storage_patience="300ms")
    home = settings.places()
    _put(s3, settings, _some(10))
    failing = Rule("GET", r"/landing/kiwi/0\.jpg", answer=409, body=ABORTED, times=-1)
    set_rules(proxy, failing, Rule("GET", r"/landing/kiwi/3\.jpg", answer=403, body=DENIED, times=-1))
    drain(settings)
    rejected = {
        "kiwi/0.jpg": (
            "unreadable",
            "It could not be read for 0.3 s, while other photos could: A conflicting operation is in progress "
            "(OperationAborted).",
        ),
        "kiwi/3.jpg": ("unreadable", "It may not be read: Access Denied (AccessDenied)."),
    }
    assert _reasons(settings) == rejected

    _put(s3, settings, _some(10, start=10))
    # With those of the first batch 12 of 20.
    set_rules(proxy, Rule("GET", r"/landing/kiwi", answer=403, body=DENIED, times=-1))
    with pytest.raises(StorageRefused) as stopped:
        drain(settings)
    assert str(stopped.value) == (
        "Storage did not hand out 12 of the last 20 photos: Access Denied (AccessDenied); check that "
        f"{home.landing.uri} can be read, its disk or network, permission and key, then start again: nothing was "
        "rejected by this batch."
    )
    assert not stopped.value.retryable
    assert read_result(home, 2) is None

    set_rules(proxy, Rule("GET", r"/landing/kiwi/", answer=409, body=ABORTED, times=-1))
    with pytest.raises(
        BatchFailed,
        match=rf"^A task of batch 2 failed on every try: Cannot read {home.landing.uri}/kiwi/\d+\.jpg for 0\.3 s, "
        r"nor any other photo of the landing: A conflicting .* \(OperationAborted\)\. "
        r"Start again once storage answers\.$",
    ):
        drain(settings)
    assert read_result(home, 2) is None

    set_rules(proxy)
    drain(settings)
    assert _reasons(settings) == rejected
    assert {outcome["key"] for outcome in outcomes(settings)} == set(PHOTOS)
