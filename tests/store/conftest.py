"""Homes of the store's tests: they need no featurizer. One proxy serves all tests of a process."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from store.home import Home
from store.settings import Settings, load_settings
from tests.conftest import REGION
from tests.support import servers
from tests.support.fault_proxy import Weather, set_rules, set_weather


@pytest.fixture
def local_settings(tmp_path: Path) -> Callable[..., Settings]:
    """Settings of a home on disk that is not there yet."""
    return lambda **flags: load_settings(**{"home": str(tmp_path / "home")} | flags)


@pytest.fixture
def s3_settings(bucket: str, s3_server: str) -> Callable[..., Settings]:
    """Settings of a home on S3 that is not there yet."""
    common = {"home": f"s3://{bucket}/home", "s3_endpoint": s3_server, "s3_region": REGION}
    return lambda **flags: load_settings(**common | flags)


@pytest.fixture(params=["disk", "s3"])
def home(request: pytest.FixtureRequest) -> Home:
    """An empty home on disk, and one on S3."""
    settings: Callable[..., Settings] = request.getfixturevalue(
        "local_settings" if request.param == "disk" else "s3_settings"
    )
    return settings().places()


@pytest.fixture(scope="session")
def proxy_process(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with servers.server_before(s3_server, "tests.support.fault_proxy", tmp_path_factory.mktemp("proxy")) as url:
        yield url


@pytest.fixture
def proxy(proxy_process: str) -> str:
    """The URL of a fault proxy before the S3 server, in which nothing is set."""
    set_rules(proxy_process)
    set_weather(proxy_process, Weather())
    return proxy_process
