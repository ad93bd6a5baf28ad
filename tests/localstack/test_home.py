"""What the suite asks of a home on its own server, asked of one on LocalStack, which nobody here had a hand in."""

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from pyspark.sql import SparkSession

from batch.maintain.compaction import compact, groups_to_compact
from batch.maintain.maintain import maintain
from batch.maintain.retention import Retention
from batch.refeaturize.refeaturize import RefeaturizeOptions, refeaturize
from batch.refit.refit import RefitOptions, refit
from batch.reproject import reproject
from bootstrap.weights.weights import CompiledNetwork
from ops.status.status import read_status
from store.errors import UnsafeStorage
from store.home import Home
from store.models.pca_models import name_served_featurizer
from store.models.registry import publish_featurizer
from store.settings import Settings, load_settings
from tests.batch.erase import test_erase
from tests.conftest import REGION
from tests.localstack.conftest import wait_for
from tests.streaming import test_watched
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, outcomes, rows, running_here

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

pytestmark = [pytest.mark.deployment]

# Where storage might answer at last, it is asked for two minutes.
AT_ONCE_S = 20


def test_listing_and_queue_lose_and_double_nothing(
    s3_settings: MakeSettings, drain: Drain, s3: "S3Client", sqs: "SQSClient", queue_url: str, bucket: str
) -> None:
    test_watched.test_switching_between_listing_and_queue_loses_and_doubles_nothing(
        s3_settings, drain, s3, sqs, queue_url, bucket
    )


def test_stream_refit_reprojection_maintenance_and_another_network_work_beside_each_other(
    bucket: str, s3_server: str, s3: "S3Client", spark: SparkSession, untrained: CompiledNetwork, tmp_path: Path
) -> None:
    settings = load_settings(
        home=f"s3://{bucket}/home", s3_endpoint=s3_server, s3_region=REGION, trigger="100ms", copies=True
    )
    home = settings.places()
    _publish(home, untrained, copy_px=300)

    def upload(numbers: range) -> None:
        for number in numbers:
            s3.put_object(Bucket=bucket, Key=f"home/landing/kiwi/{number}.jpg", Body=jpeg(number, 320, 240))

    with running_here(spark, settings, tmp_path) as run:
        upload(range(4))
        wait_for(lambda: run.photos == 4)
        refit(spark.sparkContext, home, RefitOptions(2, None, 2), False, False, _no_news)
        reproject(spark.sparkContext, home, print, _no_news)
        upload(range(4, 8))
        wait_for(lambda: run.photos == 8)
        list(compact(home, groups_to_compact(home, datetime.now(UTC) + timedelta(hours=1)), lambda: None))
        maintain(home, Retention(), print, lambda step: None)
        upload(range(8, 10))
        wait_for(lambda: run.photos == 10)
    name_served_featurizer(home)
    another = _publish(home, untrained, copy_px=320)
    [done, _] = refeaturize(spark.sparkContext, home, RefeaturizeOptions(settings.limits, share=1.0), print, _no_news)

    assert (done.featurizer, done.rows, done.places, done.lost) == (another, 10, {"copy": 10}, {})
    counted = "SELECT count(*) AS n, count(DISTINCT source) AS photos FROM"
    assert rows(settings, f"{counted} copies") == [{"n": 10, "photos": 10}]
    assert rows(settings, f"{counted} features WHERE featurizer = '{another}'") == [{"n": 10, "photos": 10}]
    assert rows(settings, f"{counted} current_projections") == [{"n": 10, "photos": 10}]
    status = read_status(home, verify=True)
    assert (status.broken, status.backlog.files) == ([], 0)


def test_a_person_is_erased_from_every_version(
    s3_settings: MakeSettings, drain: Drain, s3: "S3Client", bucket: str
) -> None:
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={"Status": "Enabled"})
    test_erase.test_a_copy_goes_with_its_photo(s3_settings(key_pattern=test_erase.PATTERN), drain, "subject")


def test_what_it_lacks_is_said_at_once_with_the_setting_that_does_without(
    s3_settings: MakeSettings, drain: Drain, s3: "S3Client", bucket: str
) -> None:
    s3.put_object(Bucket=bucket, Key="home/landing/kiwi/1.jpg", Body=jpeg(seed=1))
    for how in ("archive", "delete", "reduce"):
        began_s = time.monotonic()
        with pytest.raises(UnsafeStorage, match=r"lacks the condition If-Match of a delete\. .*: use --clean keep\.$"):
            drain(s3_settings(clean=how))
        assert time.monotonic() - began_s < AT_ONCE_S
    keeping = s3_settings()
    drain(keeping)
    assert [row["key"] for row in outcomes(keeping)] == ["kiwi/1.jpg"]


def _publish(home: Home, network: CompiledNetwork, copy_px: int) -> str:
    return publish_featurizer(
        home, network.network, network.source, network.fingerprint, kind=network.kind, copy_px=copy_px
    ).id


def _no_news(done: int, total: int) -> None:
    """Nobody looks at how far it is."""
