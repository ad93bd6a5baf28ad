"""Under `reduce` the archived original of a reject goes when a retry makes a photo of it, and else stays."""

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bootstrap.weights.weights import CompiledNetwork
from ops.rejects import RejectFilter, select_retries
from ops.status.status import read_status
from store.models.registry import publish_featurizer
from store.objects.landing import LandedObject, archived_key, archived_name, delete_archived
from store.objects.operations import keys_below
from store.objects.s3 import bucket_and_key
from store.settings import Settings
from store.state.retries import request_retries
from tests.support.pictures import jpeg, text_file
from tests.support.stream_run import Run, drop, rows

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]
DROPPED = {"kiwi/big.jpg": jpeg(seed=2, width_px=640, height_px=480), "pear/notes.jpg": text_file()}


def _archived(settings: Settings) -> list[str]:
    return sorted(archived_key(name)[0] for name in keys_below(settings.places().archive))


@pytest.fixture
def asked(local_settings: MakeSettings, untrained: CompiledNetwork, drain: Drain) -> Settings:
    """A home whose rejects are archived, one of them for its size, and asked to be tried again with a raised limit."""
    settings = local_settings(clean="archive", max_pixels=100_000)
    home = settings.places()
    publish_featurizer(home, untrained.network, untrained.source, untrained.fingerprint, copy_px=300)
    drop(settings, DROPPED)
    drain(settings)
    assert _archived(settings) == sorted(DROPPED)
    selected = select_retries(home, RejectFilter())
    request_retries(home, home.landing.source, selected.retries, selected.erasures_begun)
    return settings.model_copy(update={"max_pixels": 1_000_000})


@pytest.mark.parametrize("clean", ["reduce", "archive", "delete", "keep"])
def test_a_retried_photo_takes_its_archived_original_with_it_only_under_reduce(
    asked: Settings, drain: Drain, clean: str
) -> None:
    drain(asked.model_copy(update={"clean": clean}))
    assert len(rows(asked, "SELECT * FROM features")) == 1
    assert _archived(asked) == (["pear/notes.jpg"] if clean == "reduce" else sorted(DROPPED))
    assert read_status(asked.places(), verify=True).broken == []


def test_a_kill_before_the_last_commit_deletes_it_at_the_next_start(asked: Settings, drain: Drain) -> None:
    reducing = asked.model_copy(update={"clean": "reduce"})
    archive = asked.places().archive.directory
    [original] = [name for name in keys_below(asked.places().archive) if archived_key(name)[0] == "kiwi/big.jpg"]
    body = (archive / original).read_bytes()
    drain(reducing)
    # As a kill leaves it between the commits of the copies and of the rejects.
    newest = max((Path(asked.home) / "rejects/_delta_log").glob("*.json"))
    newest.unlink()
    (archive / original).write_bytes(body)
    drain(reducing)
    assert _archived(asked) == ["pear/notes.jpg"]
    assert len(rows(asked, "SELECT * FROM features JOIN copies USING (batch, source, etag, image_id)")) == 1
    assert len(rows(asked, "SELECT * FROM rejects")) == 1
    assert read_status(asked.places(), verify=True).broken == []


def test_an_archived_object_in_a_bucket_is_deleted_once(s3_settings: MakeSettings, s3: "S3Client") -> None:
    archive = s3_settings().places().archive
    for key in ("kiwi/a.jpg", "kiwi/odd//name", "kiwi/é.jpg"):
        landed = LandedObject(key, 3, "e1", datetime.now(UTC))
        bucket, name = bucket_and_key(archive, archived_name(landed))
        s3.put_object(Bucket=bucket, Key=name, Body=b"abc")
        assert (delete_archived(archive, landed), delete_archived(archive, landed)) == (True, False)
