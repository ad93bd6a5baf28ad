"""A process that ends takes no photo's outcome with it but that of the photo that ended it."""

import os
import signal
from collections.abc import Iterator

import numpy as np
import pytest

from bootstrap.weights.weights import CompiledNetwork
from features.errors import DecoderUnavailable
from features.featurizer import DRAFT, Featurizer
from features.image import Limits, decode
from ops.identify.feature_process import FeatureProcess
from tests.support.pictures import jpeg

LIMITS = Limits(max_image_bytes=10_000_000, max_pixels=20_000_000, max_decode_s=5.0)


@pytest.fixture
def process() -> Iterator[FeatureProcess]:
    process = FeatureProcess(LIMITS)
    yield process
    process.close()


def test_features_are_those_of_a_worker_also_after_the_process_was_killed(
    process: FeatureProcess, untrained: CompiledNetwork
) -> None:
    body = jpeg(seed=1)
    expected = Featurizer(untrained.network).features(decode(body, LIMITS).pixels[None])[0]
    first = process.features(body, lambda: untrained.network, DRAFT)
    assert process._process is not None
    os.kill(process._process.pid, signal.SIGKILL)
    again = process.features(body, lambda: untrained.network, DRAFT)
    assert np.array_equal(first, expected)
    assert np.array_equal(again, expected)


def test_a_process_that_cannot_begin_blames_no_photo(
    process: FeatureProcess, monkeypatch: pytest.MonkeyPatch, untrained: CompiledNetwork
) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(DecoderUnavailable, match="did not answer"):
        process.features(jpeg(seed=1), lambda: untrained.network, DRAFT)


def test_bytes_that_are_no_network_blame_no_photo(process: FeatureProcess) -> None:
    with pytest.raises(DecoderUnavailable, match="are not a compiled network"):
        process.features(jpeg(seed=1), lambda: b"no network", DRAFT)
