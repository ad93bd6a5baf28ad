"""What `fruits logs` finds of a job among the files that EMR copies."""

import gzip
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bootstrap.aws.cloud import Cloud
from bootstrap.aws.logs import read_logs
from bootstrap.aws.steps import SubmittedStep, job_step
from tests.conftest import REGION

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client


def test_logs_of_a_driver_are_found_also_when_they_turned_over(s3: "S3Client", s3_server: str) -> None:
    cloud = Cloud("logged", REGION, "123456789012", "arn:aws:iam::123456789012:user/somebody")
    s3.create_bucket(Bucket=cloud.ops_bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    step = SubmittedStep("s-1", job_step("stream", [], "s3://home"), "RUNNING", datetime.now(UTC), None)
    driver = "containers/application_1_0001/container_1_0001_01_000001"
    second = "containers/application_1_0001/container_1_0001_02_000001"
    said = {
        "steps/s-1/stderr.gz": "Submitting application application_1_0001 to ResourceManager",
        f"{driver}/spark.log.1.gz": "older",
        f"{driver}/spark.log.gz": "newer",
        f"{driver}/stdout.gz": "10 photos",
        f"{second}/stderr": "not compressed yet",
    }
    others = {
        f"{driver}/launch_container.sh.gz": "export",
        f"{driver}/directory.info.gz": "ls",
        "containers/application_1_0001/container_1_0001_01_000002/spark.log.gz": "an executor's",
        "containers/application_1_0002/container_1_0002_01_000001/spark.log.gz": "of another job",
    }
    for name, text in (said | others).items():
        body = gzip.compress(text.encode()) if name.endswith(".gz") else text.encode()
        s3.put_object(Bucket=cloud.ops_bucket, Key=f"logs/j-1/{name}", Body=body)

    found = {log.uri.partition("/logs/j-1/")[2]: log.text for log in read_logs(cloud, s3_server, "j-1", step)}

    assert found == said
