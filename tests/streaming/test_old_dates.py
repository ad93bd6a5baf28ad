"""Photos that bring old times along wait since they came, not since they were taken."""

import os
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

from bootstrap.weights.weights import CompiledNetwork
from ops.status.health import assess_health
from ops.status.status import read_status
from store.models.registry import publish_featurizer
from store.settings import Settings, load_settings
from store.state.landing_names import read_record
from streaming.discovery.visibility import LISTED_KEY, CaughtUp, not_seen_at
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, rows

Drain = Callable[[Settings], Run]
MakeSettings = Callable[..., Settings]

YEARS_S = 6.5 * 365 * 86400


def _drop(folder: Path, name: str, seed: int, old_s: float = YEARS_S) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(jpeg(seed=seed))
    os.utime(folder / name, (time.time() - old_s, time.time() - old_s))


def test_photos_with_old_times_wait_since_they_came_and_the_first_are_planned_first(
    local_settings: MakeSettings, drain: Drain
) -> None:
    settings = local_settings(max_files=1)
    kiwi = settings.places().landing.directory / "kiwi"
    for number, old_s in enumerate((0, YEARS_S)):
        _drop(kiwi, f"{number}.jpg", number, old_s)
        time.sleep(0.05)
    status = read_status(settings.places(), verify=False)
    assert datetime.now(UTC) - (status.backlog.oldest_arrived_at or datetime.min.replace(tzinfo=UTC)) < timedelta(
        minutes=5
    )

    run = drain(settings)

    assert max(report.oldest_waited_s for report in run.reports) < 300
    [waited] = rows(settings, "SELECT max(epoch(ingested_at) - epoch(first_visible_at)) AS s FROM photos")
    assert 0 <= waited["s"] < 300
    first, second = rows(settings, "SELECT source, arrived_at FROM features ORDER BY batch")
    assert (first["source"].rpartition("/")[2], second["source"].rpartition("/")[2]) == ("0.jpg", "1.jpg")
    assert datetime.now(UTC) - second["arrived_at"] > timedelta(days=2000)
    assert "days" not in assess_health(read_status(settings.places(), verify=False), 10).verdict


def test_a_folder_that_is_moved_in_with_its_old_inodes_waits_since_the_last_listing(
    local_settings: MakeSettings, drain: Drain, tmp_path: Path
) -> None:
    settings = local_settings()
    home = settings.places()
    # What is moved with its folder keeps the time of its last change.
    _drop(tmp_path / "camera", "1.jpg", 1)
    time.sleep(0.2)
    _drop(home.landing.directory / "kiwi", "0.jpg", 0)
    drain(settings)
    listed_at = not_seen_at(home)
    record = read_record(home)
    assert listed_at is not None and record is not None and listed_at >= record.made_at
    changed_at = (tmp_path / "camera/1.jpg").stat().st_ctime
    shutil.move(tmp_path / "camera", home.landing.directory / "camera")

    drain(settings)

    [row] = rows(settings, "SELECT first_visible_at AS at FROM features WHERE source LIKE '%camera%'")
    assert row["at"] == listed_at
    assert row["at"].timestamp() > changed_at + 0.2


def test_how_far_listings_came_is_kept_by_the_landings_name(tmp_path: Path, untrained: CompiledNetwork) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    publish_featurizer(home, untrained.network, untrained.source, untrained.fingerprint)
    at = datetime(2026, 10, 3, tzinfo=UTC)
    CaughtUp(home).remember(at)
    assert (home.state.directory / LISTED_KEY).exists()
    assert not_seen_at(home) == at
    assert not_seen_at(load_settings(home=str(tmp_path / "home"), landing=str(tmp_path / "photos")).places()) is None
