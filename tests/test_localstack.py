"""What the suite asks of its own server for S3 and SQS, asked of LocalStack, which nobody here had a hand in.

The templates, too, are made by its CloudFormation: what it makes tells the stream of photos, and each has its row.
"""

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from pyspark.sql import SparkSession

from batch.maintain.compaction import compact, groups_to_compact
from batch.maintain.maintain import maintain
from batch.maintain.retention import Retention
from batch.refeaturize.refeaturize import RefeaturizeOptions, refeaturize
from batch.refit.refit import RefitOptions, refit
from batch.reproject import reproject
from bootstrap.aws.template import read_template
from bootstrap.weights.weights import CompiledNetwork
from ops.status.status import read_status
from store.errors import UnsafeStorage
from store.home import Home
from store.models.pca_models import name_served_featurizer
from store.models.registry import publish_featurizer
from store.settings import Settings, load_settings
from tests.batch.erase import test_erase
from tests.conftest import REGION
from tests.streaming import test_watched
from tests.support.pictures import jpeg, many_jpegs
from tests.support.servers import localstack, reachable
from tests.support.stream_run import Run, outcomes, rows, running_here, with_featurizer

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

pytestmark = [pytest.mark.deployment]

STACK = "fruits-trial"
LONG_S = 60
# Where storage might answer at last, it is asked for two minutes.
AT_ONCE_S = 20


@pytest.fixture(autouse=True)
def ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream's end waits for the answer to its last question to the queue."""
    monkeypatch.setattr("streaming.discovery.queue.WAIT_S", 1)


@pytest.fixture(scope="module")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a LocalStack in a process of its own."""
    with localstack(tmp_path_factory.mktemp("localstack")) as url:
        yield url


@pytest.fixture(scope="module")
def s3(s3_server: str) -> "S3Client":
    return boto3.client("s3", endpoint_url=s3_server, region_name=REGION)


@pytest.fixture(scope="module")
def sqs(s3_server: str) -> "SQSClient":
    return boto3.client("sqs", endpoint_url=s3_server, region_name=REGION)


@pytest.fixture(scope="module")
def cloudformation(s3_server: str) -> Any:
    return boto3.client("cloudformation", endpoint_url=s3_server, region_name=REGION)


@pytest.fixture
def queue_url(sqs: "SQSClient", s3_server: str) -> str:
    """The URL of a new, empty queue."""
    return reachable(s3_server, sqs.create_queue(QueueName=f"landed-{uuid.uuid4().hex[:12]}")["QueueUrl"])


@pytest.fixture(scope="module")
def foundation(cloudformation: Any) -> Mapping[str, str]:
    """The outputs of a stack of the foundation, which ends with the server."""
    cloudformation.create_stack(
        StackName=STACK,
        TemplateBody=read_template().foundation().text,
        Parameters=[{"ParameterKey": "Stage", "ParameterValue": "trial"}],
        Capabilities=["CAPABILITY_IAM"],
    )
    cloudformation.get_waiter("stack_create_complete").wait(StackName=STACK, WaiterConfig={"Delay": 1})
    [stack] = cloudformation.describe_stacks(StackName=STACK)["Stacks"]
    return {each["OutputKey"]: each["OutputValue"] for each in stack["Outputs"]}


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
        _wait_for(lambda: run.photos == 4)
        refit(spark.sparkContext, home, RefitOptions(2, None, 2), False, False, _no_news)
        reproject(spark.sparkContext, home, print, _no_news)
        upload(range(4, 8))
        _wait_for(lambda: run.photos == 8)
        list(compact(home, groups_to_compact(home, datetime.now(UTC) + timedelta(hours=1)), lambda: None))
        maintain(home, Retention(), print, lambda step: None)
        upload(range(8, 10))
        _wait_for(lambda: run.photos == 10)
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


def test_photos_in_the_bucket_are_told_to_the_queue_and_get_their_rows(
    foundation: Mapping[str, str],
    s3: "S3Client",
    sqs: "SQSClient",
    s3_server: str,
    spark: SparkSession,
    untrained: CompiledNetwork,
    tmp_path: Path,
) -> None:
    bucket, queue = foundation["DataBucket"], reachable(s3_server, foundation["QueueUrl"])
    settings = with_featurizer(
        load_settings(home=f"s3://{bucket}", s3_endpoint=s3_server, s3_region=REGION, queue=queue, trigger="100ms"),
        untrained,
    )
    first, *others = [f"landing/kiwi/{number}.jpg" for number in range(30)]
    body, *bodies = many_jpegs(30, 320, 240)
    s3.put_object(Bucket=bucket, Key=first, Body=body)

    with running_here(spark, settings, tmp_path) as run:
        # A start lists what is there, and the next six hours do not: of the others only the queue can tell.
        _wait_for(lambda: run.photos == 1)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key, body: s3.put_object(Bucket=bucket, Key=key, Body=body), others, bodies))
        _wait_for(lambda: run.photos == 30)
        _wait_for(lambda: _messages(sqs, queue) == 0)

    found = rows(settings, "SELECT split_part(source, '/landing/', 2) AS key FROM features")
    assert sorted(f"landing/{row['key']}" for row in found) == sorted([first, *others])
    status = read_status(settings.places(), verify=True)
    assert (status.broken, status.backlog.files) == ([], 0)
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"


def _publish(home: Home, network: CompiledNetwork, copy_px: int) -> str:
    return publish_featurizer(
        home, network.network, network.source, network.fingerprint, kind=network.kind, copy_px=copy_px
    ).id


def _no_news(done: int, total: int) -> None:
    """Nobody looks at how far it is."""


def _messages(sqs: "SQSClient", queue: str) -> int:
    names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    return sum(map(int, sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"].values()))


def _wait_for(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
