"""The templates made by another engine than the suite's: what it makes tells the stream of photos; each has its row."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pyspark.sql import SparkSession

from bootstrap.aws.template import read_template
from bootstrap.weights.weights import CompiledNetwork
from ops.status.status import read_status
from store.settings import load_settings
from tests.conftest import REGION
from tests.localstack.conftest import wait_for
from tests.support.pictures import many_jpegs
from tests.support.servers import reachable
from tests.support.stream_run import rows, running_here, with_featurizer

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

pytestmark = [pytest.mark.deployment]

STACK = "fruits-trial"


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
        wait_for(lambda: run.photos == 1)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key, body: s3.put_object(Bucket=bucket, Key=key, Body=body), others, bodies))
        wait_for(lambda: run.photos == 30)
        wait_for(lambda: _messages(sqs, queue) == 0)

    found = rows(settings, "SELECT split_part(source, '/landing/', 2) AS key FROM features")
    assert sorted(f"landing/{row['key']}" for row in found) == sorted([first, *others])
    status = read_status(settings.places(), verify=True)
    assert (status.broken, status.backlog.files) == ([], 0)
    assert s3.get_bucket_versioning(Bucket=bucket)["Status"] == "Enabled"


def _messages(sqs: "SQSClient", queue: str) -> int:
    names: list[Any] = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    return sum(map(int, sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=names)["Attributes"].values()))
