"""The suite's fixtures, with LocalStack as the server: what takes `bucket`, `queue_url` or `s3_settings` runs on it."""

import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import boto3
import pytest

from tests.conftest import REGION
from tests.support import servers

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

LONG_S = 60


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + LONG_S
    while not is_so():
        assert time.monotonic() < deadline_s
        time.sleep(0.1)


@pytest.fixture(autouse=True)
def ends_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream's end waits for the answer to its last question to the queue."""
    monkeypatch.setattr("streaming.discovery.queue.WAIT_S", 1)


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a LocalStack in a process of its own."""
    with servers.localstack(tmp_path_factory.mktemp("localstack")) as url:
        yield url


@pytest.fixture(scope="session")
def s3(s3_server: str) -> "S3Client":
    return boto3.client("s3", endpoint_url=s3_server, region_name=REGION)


@pytest.fixture(scope="session")
def sqs(s3_server: str) -> "SQSClient":
    return boto3.client("sqs", endpoint_url=s3_server, region_name=REGION)


@pytest.fixture(scope="session")
def cloudformation(s3_server: str) -> Any:
    return boto3.client("cloudformation", endpoint_url=s3_server, region_name=REGION)


@pytest.fixture
def queue_url(sqs: "SQSClient", s3_server: str) -> str:
    """The URL of a new, empty queue."""
    return servers.reachable(s3_server, sqs.create_queue(QueueName=f"landed-{uuid.uuid4().hex[:12]}")["QueueUrl"])
