"""What the suite asks of a home on its own server, asked of one on LocalStack, which nobody here had a hand in."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from pyspark.sql import SparkSession

from bootstrap.weights.weights import CompiledNetwork
from store.errors import UnsafeStorage
from store.settings import Settings
from tests.batch.erase import test_erase
from tests.batch.maintain import test_maintain
from tests.streaming import test_watched
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, outcomes

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

pytestmark = [pytest.mark.deployment]


def test_listing_and_queue_lose_and_double_nothing(
    s3_settings: MakeSettings, drain: Drain, s3: "S3Client", sqs: "SQSClient", queue_url: str, bucket: str
) -> None:
    test_watched.test_switching_between_listing_and_queue_loses_and_doubles_nothing(
        s3_settings, drain, s3, sqs, queue_url, bucket
    )


def test_stream_refit_reprojection_and_maintenance_work_beside_each_other(
    s3_settings: MakeSettings, spark: SparkSession
) -> None:
    test_maintain.test_beside_a_stream_a_refit_and_a_reprojection(s3_settings, spark)


def test_a_person_is_erased_from_every_version(
    s3_settings: MakeSettings, drain: Drain, s3: "S3Client", bucket: str
) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    test_erase.test_a_copy_goes_with_its_photo(s3_settings(key_pattern=test_erase.PATTERN), drain, "subject")


@pytest.mark.parametrize("how", ["archive", "delete", "reduce"])
def test_what_it_lacks_is_said_at_once_with_the_setting_that_does_without(
    s3_settings: MakeSettings, drain: Drain, s3: "S3Client", bucket: str, untrained: CompiledNetwork, how: str
) -> None:
    s3.put_object(Bucket=bucket, Key="home/landing/kiwi/1.jpg", Body=jpeg(seed=1))
    with pytest.raises(UnsafeStorage, match=r"lacks the condition If-Match of a delete\. .*: use --clean keep\.$"):
        drain(s3_settings(clean=how))
    keeping = s3_settings()
    drain(keeping)
    assert [row["key"] for row in outcomes(keeping)] == ["kiwi/1.jpg"]
