"""Damaged photos end as features or as a listed reason, and cost no more memory than the limit allows."""

from benchmarks.fuzz import LIMITS, fuzz
from bootstrap.weights.weights import CompiledNetwork
from features.image import FORMATS
from features.rejects import Reason

# Eight of each kind of photo; `python -m benchmarks.fuzz` damages more of them.
PHOTOS = 200
# What the interpreter, the network and the decoders take before the first photo, and a photo of the most pixels.
MOST_MB = 300 + LIMITS.max_pixels * 4 / 2**20


def test_every_damaged_photo_has_an_outcome(untrained: CompiledNetwork) -> None:
    outcomes = list(fuzz(range(PHOTOS), untrained.network, LIMITS))
    assert [outcome.number for outcome in outcomes] == list(range(PHOTOS))
    listed = {str(reason) for reason in Reason} | {f"features of {name}" for name in FORMATS}
    found = {outcome.what for outcome in outcomes}
    assert found <= listed
    # The damages are of use: they leave some photos alive and kill others in many ways.
    assert {"features of JPEG", "corrupt", "truncated", "too_many_pixels", "not_an_image"} <= found
    assert max(outcome.peak_mb for outcome in outcomes) < MOST_MB
    assert all(outcome.detail for outcome in outcomes if not outcome.what.startswith("features"))
