"""A decoder that dies takes nothing with it but the photo it died of."""

from pathlib import Path

import numpy as np
import pytest

from features.errors import DecoderUnavailable
from features.image import Limits, Photo, decode
from features.isolation import IsolatedDecoder
from features.rejects import Reason, Rejected
from tests.support.crashing_decoder.sitecustomize import SEGFAULT, STUCK
from tests.support.pictures import encoded, jpeg, pixels, scan_bomb, truncated_jpeg

LIMITS = Limits(max_image_bytes=10_000_000, max_pixels=20_000_000, max_decode_s=1.0)


@pytest.fixture
def crashing_decoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "support" / "crashing_decoder")


def _alone(body: bytes, limits: Limits) -> Photo:
    with IsolatedDecoder(limits) as decoder:
        return decoder.decode(body, limits)


def test_a_photo_decodes_alone_as_it_does_in_company() -> None:
    body = jpeg(seed=1, width_px=700, height_px=500)
    alone, in_company = _alone(body, LIMITS), decode(body, LIMITS)
    assert (alone.pixels == in_company.pixels).all()
    assert alone.pixels.dtype == np.uint8
    assert (alone.format, alone.width_px, alone.height_px) == ("JPEG", 700, 500)


@pytest.mark.parametrize(
    ("body", "reason", "detail"),
    [
        (encoded(pixels(seed=1), "JPEG", comment=SEGFAULT), Reason.DECODER_CRASHED, "ended by SIGSEGV"),
        (encoded(pixels(seed=1), "JPEG", comment=STUCK), Reason.DECODER_CRASHED, "stuck for 1 s"),
        (scan_bomb(), Reason.DECODER_CRASHED, "stuck for 1 s"),
        (truncated_jpeg(), Reason.TRUNCATED, "truncated"),
    ],
    ids=["crashes", "hangs", "100,000 scans", "only truncated"],
)
@pytest.mark.usefixtures("crashing_decoder")
def test_the_reason_says_how_the_decoder_ended(body: bytes, reason: Reason, detail: str) -> None:
    with pytest.raises(Rejected, match=detail) as rejected:
        _alone(body, LIMITS)
    assert rejected.value.reason == reason


def test_a_process_that_cannot_begin_blames_no_photo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/bin/false")
    with pytest.raises(DecoderUnavailable):
        _alone(jpeg(seed=1), LIMITS)


@pytest.mark.usefixtures("crashing_decoder")
def test_photos_after_one_that_crashed_decode_and_none_sees_another() -> None:
    crashing, fine = encoded(pixels(seed=1), "JPEG", comment=SEGFAULT), [jpeg(seed=n) for n in range(3)]
    with IsolatedDecoder(LIMITS) as decoder:
        for body in fine:
            with pytest.raises(Rejected):
                decoder.decode(crashing, LIMITS)
            assert (decoder.decode(body, LIMITS).pixels == decode(body, LIMITS).pixels).all()


def test_a_folder_with_modules_of_the_names_of_ours_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("features", "numpy", "PIL"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('a module of the user')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert _alone(jpeg(seed=1), LIMITS).format == "JPEG"
