"""However photos are found, and whatever is done with them afterwards: each has one row."""

import os
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING

import pytest

from features.errors import InvalidSetting
from ops.status.status import read_status
from store.settings import Settings
from tests.support.feature_rows import commit_features, feature_vectors
from tests.support.pictures import jpeg, text_file
from tests.support.stream_run import Run, outcomes, rows

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]


def _notify(s3: "S3Client", sqs: "SQSClient", bucket: str, queue_url: str) -> None:
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


def _messages(sqs: "SQSClient", queue_url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    counts = sqs.get_queue_attributes(QueueUrl=queue_url, AttributeNames=names)["Attributes"]  # type: ignore[arg-type]
    return sum(map(int, counts.values()))


@pytest.mark.processes
def test_switching_between_listing_and_queue_loses_and_doubles_nothing(
    s3_settings: MakeSettings, drain: Drain, s3: "S3Client", sqs: "SQSClient", queue_url: str, bucket: str
) -> None:
    by_listing, by_queue = s3_settings(), s3_settings(queue=queue_url)

    def upload(key: str, body: bytes) -> None:
        s3.put_object(Bucket=bucket, Key=f"home/landing/{key}", Body=body)

    upload("kiwi/before any notification.jpg", jpeg(seed=1))
    _notify(s3, sqs, bucket, queue_url)
    upload("kiwi/told.jpg", jpeg(seed=2))
    upload("kiwi/told but gone.jpg", jpeg(seed=3))
    s3.delete_object(Bucket=bucket, Key="home/landing/kiwi/told but gone.jpg")
    assert sum(report.photos for report in drain(by_queue).reports) == 2
    upload("kiwi/listed first.jpg", jpeg(seed=4))
    upload("kiwi/notes.jpg", text_file())
    assert drain(by_listing).photos == 1
    assert _messages(sqs, queue_url) == 2
    upload("kiwi/told.jpg", jpeg(seed=5))
    assert [report.photos for report in drain(by_queue).reports] == [1]

    assert sorted((one["key"], one["reason"]) for one in outcomes(by_listing)) == [
        ("kiwi/before any notification.jpg", None),
        ("kiwi/listed first.jpg", None),
        ("kiwi/notes.jpg", "not_an_image"),
        ("kiwi/told but gone.jpg", "missing"),
        ("kiwi/told.jpg", None),
        ("kiwi/told.jpg", None),
    ]
    status = read_status(by_listing.places(), verify=True)
    assert (status.broken, status.backlog.files) == ([], 0)
    assert _messages(sqs, queue_url) == 0


def test_only_new_passes_over_what_is_there_at_a_homes_first_start_for_good(
    local_settings: MakeSettings, drain: Drain
) -> None:
    settings = local_settings(only_new=True)
    landing = settings.places().landing.directory
    landing.mkdir(parents=True)
    (landing / "old.jpg").write_bytes(jpeg(seed=1))
    assert drain(settings).reports == []
    # As `mv` and `cp -p` bring it: it is new here, though its time is not.
    (landing / "new.jpg").write_bytes(jpeg(seed=2))
    os.utime(landing / "new.jpg", (1_000_000_000, 1_000_000_000))
    assert drain(settings).photos == 1
    assert drain(local_settings()).reports == []
    assert read_status(settings.places(), verify=True).backlog.files == 0


def test_only_new_is_refused_where_it_comes_too_late(local_settings: MakeSettings, drain: Drain) -> None:
    settings = local_settings()
    commit_features(settings.places(), 1, date(2026, 10, 3), feature_vectors(1, 1))
    with pytest.raises(InvalidSetting, match="first start only"):
        drain(local_settings(only_new=True))


def test_photos_are_cleared_away_when_it_is_time_also_by_a_later_start_and_never_what_came_since(
    local_settings: MakeSettings, drain: Drain
) -> None:
    later = local_settings(clean="archive", clean_after="1h")
    home = later.places()
    home.landing.create()
    photo, other = home.landing.directory / "a.jpg", home.landing.directory / "b.jpg"
    photo.write_bytes(jpeg(seed=1))
    other.write_bytes(jpeg(seed=2))
    assert drain(later).photos == 2
    assert photo.exists() and other.exists()

    photo.write_bytes(jpeg(seed=3))
    assert drain(local_settings(clean="archive")).photos == 1

    assert list(home.landing.directory.iterdir()) == []
    archived = sorted(path.name.split(".")[0] for path in home.archive.directory.iterdir())
    assert archived == ["a", "b"]
    assert len(rows(later, "SELECT * FROM features")) == 3
