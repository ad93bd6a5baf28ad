"""Homes of the store's tests: they need no featurizer."""

from collections.abc import Callable
from pathlib import Path

import pytest

from store.home import Home
from store.settings import Settings, load_settings
from tests.conftest import REGION


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
