"""In bad weather the stream ends with the rows of a calm day; photos that are refused one by one end it, too."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from ops.status.status import read_status
from store.errors import StorageRefused
from store.objects.landing import LandedObject
from store.settings import Settings
from store.state.plans import BatchCounters, Plan, Result, write_result
from streaming.access_denied import AccessDeniedMonitor
from tests.support.fault_proxy import Weather, faults, set_weather
from tests.support.feature_rows import serve_a_model
from tests.support.pictures import jpeg, text_file, truncated_jpeg
from tests.support.stream_run import Run, drop, outcomes

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

PHOTOS = {f"kiwi/{number}.jpg": jpeg(seed=number) for number in range(8)}
BAD = {"kiwi/notes.jpg": text_file(), "kiwi/cut.jpg": truncated_jpeg()}


def _land(s3: "S3Client", settings: Settings, photos: dict[str, bytes]) -> None:
    bucket, prefix = settings.places().landing.bucket_and_prefix
    for key, body in photos.items():
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{key}", Body=body)


@pytest.mark.processes
def test_a_storm_leaves_no_trace_in_the_tables(
    local_settings: MakeSettings, s3_settings: MakeSettings, drain: Drain, proxy: str, s3: "S3Client"
) -> None:
    calm = local_settings()
    serve_a_model(calm.places())
    drop(calm, PHOTOS | BAD)
    drain(calm)

    stormy = s3_settings(s3_endpoint=proxy, clean="archive", max_files=6)
    serve_a_model(stormy.places())
    _land(s3, stormy, PHOTOS | BAD)
    storm = Weather(seed=1, error_503=0.04, error_500=0.04, reset=0.04, short_read=0.04, landed_error=0.06)
    storm = replace(storm, slow_body=0.04, slow_body_s=0.1, stall=0.02, stall_s=0.2)
    set_weather(proxy, storm)
    drain(stormy)
    came = faults(proxy)
    set_weather(proxy, Weather())

    assert min(came.values()) >= 1, came
    assert outcomes(stormy) == outcomes(calm)
    assert read_status(stormy.places(), verify=True).broken == []
    bucket, prefix = stormy.places().archive.bucket_and_prefix
    assert len(s3.list_objects_v2(Bucket=bucket, Prefix=f"{prefix}/")["Contents"]) == len(PHOTOS | BAD)
    assert "Contents" not in s3.list_objects_v2(Bucket=bucket, Prefix="home/landing/")


def test_a_trickle_of_refused_photos_stops_the_stream_once_they_are_most_of_the_last_20(
    local_settings: MakeSettings,
) -> None:
    home = local_settings().places()
    refused = BatchCounters(rejects={"unreadable": 1}, refused=1)
    refusals = AccessDeniedMonitor(home)
    for batch in range(1, 20):
        refusals.check(_plan(batch), refused, "No")
        write_result(home, Result(batch, "nonce", datetime.now(UTC), {}, ("a.jpg",), refused))
    for after_a_start in (refusals, AccessDeniedMonitor(home)):
        with pytest.raises(StorageRefused, match=r"^Storage did not hand out 20 of the last 20 photos: No; "):
            after_a_start.check(_plan(20), refused, "No")

    mended = AccessDeniedMonitor(home)
    for batch in range(20, 30):
        mended.check(_plan(batch), BatchCounters(photos=1), "")
    mended.check(_plan(30), refused, "No")


def _plan(batch: int) -> Plan:
    arrived_at = datetime(2026, 10, 3, tzinfo=UTC)
    photo = LandedObject(f"{batch}.jpg", 1, "e", arrived_at)
    return Plan(batch, "nonce", arrived_at, arrived_at.date(), "s3://bucket/landing", "", "featurizer", (photo,))
