"""What was planned is known again, for as long as it can come again, and costs little to know."""

import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from store.objects.landing import LandedObject
from store.objects.location import StorageLocation
from streaming.discovery.processed_index import Day, Outcome, ProcessedEntry, ProcessedIndex, identity

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture
def seen(tmp_path: Path) -> Iterator[ProcessedIndex]:
    made = ProcessedIndex(tmp_path / "seen.sqlite")
    yield made
    made.close()


def _identities(count: int, kind: str = "") -> list[bytes]:
    return [hashlib.md5(f"{kind}{number}".encode()).digest() for number in range(count)]


def _plan(seen: ProcessedIndex, batch: int, identities: list[bytes], at: datetime = NOW) -> None:
    seen.planned(batch, [(one, at) for one in identities], at)


def _commit(seen: ProcessedIndex, batch: int, identities: list[bytes], rejected: int = 0, at: datetime = NOW) -> None:
    _plan(seen, batch, identities, at)
    photos = len(identities) - rejected
    seen.committed(batch, Outcome(at, at.date(), photos, rejected, tuple(identities[:rejected])))


def test_only_what_was_planned_is_known(seen: ProcessedIndex) -> None:
    planned, others = _identities(2500), _identities(2500, "other")
    _plan(seen, 7, planned)
    known = seen.entries(planned + others)
    assert known == dict.fromkeys(planned, ProcessedEntry(7, int(NOW.timestamp()), int(NOW.timestamp()), None))


def test_a_commit_tells_photos_from_rejects_and_counts_its_day_once(seen: ProcessedIndex) -> None:
    first, second = _identities(10), _identities(5, "second")
    _commit(seen, 1, first, rejected=3)
    _commit(seen, 1, first, rejected=3)
    _commit(seen, 2, second)
    assert [seen.entries(first)[one].featurized for one in first] == [False] * 3 + [True] * 7
    assert seen.days == [Day(NOW.date(), batches=2, photos=12, rejects=3)]
    assert seen.info.through == 2
    assert seen.committed_objects == 15


def test_what_was_neither_committed_nor_shown_for_14_days_is_forgotten_and_nothing_else(seen: ProcessedIndex) -> None:
    old, shown, young, in_hand = (_identities(3, kind) for kind in ("old", "shown", "young", "in hand"))
    long_ago = NOW - timedelta(days=20)
    for batch, identities in enumerate((old, shown, young), start=1):
        _commit(seen, batch, identities, at=NOW if identities is young else long_ago)
    _plan(seen, 4, in_hand, long_ago)
    seen.shown(shown, NOW - timedelta(days=1))
    seen.forget(NOW - timedelta(days=14), listed_at=NOW)
    assert set(seen.entries(old + shown + young + in_hand)) == {*shown, *young, *in_hand}
    # Whoever asks for anything as old has to look further.
    assert seen.info.complete_since_s > long_ago.timestamp()


def test_one_listing_that_does_not_show_it_makes_nothing_forgotten(seen: ProcessedIndex) -> None:
    photos = _identities(3)
    _commit(seen, 1, photos, at=NOW - timedelta(days=400))
    seen.shown(photos, NOW - timedelta(hours=1))
    seen.shown([], NOW)
    seen.forget(NOW - timedelta(days=14), listed_at=NOW)
    assert set(seen.entries(photos)) == set(photos)
    assert seen.info.complete_since_s == 0


def test_beyond_the_limit_the_oldest_go_and_that_is_known(
    seen: ProcessedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.discovery.processed_index.MOST_REMEMBERED", 100)
    for batch in range(20):
        _commit(seen, batch + 1, _identities(10, f"{batch}-"), at=NOW + timedelta(seconds=batch))
    seen.forget(NOW - timedelta(days=14), listed_at=NOW)
    kept = [batch for batch in range(20) if seen.entries(_identities(10, f"{batch}-"))]
    assert kept == list(range(11, 20))
    assert seen.info.complete_since_s > (NOW + timedelta(seconds=10)).timestamp()


def test_what_was_cleared_away_days_after_its_commit_counts_to_the_limit_and_what_lies_there_does_not(
    seen: ProcessedIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streaming.discovery.processed_index.MOST_REMEMBERED", 100)
    for batch in range(20):
        _commit(seen, batch + 1, _identities(10, f"{batch}-"), at=NOW + timedelta(seconds=batch))
    for day in range(1, 8):
        listed_at = NOW + timedelta(days=day)
        # After four days the first 15 batches are cleared away; each listing shows the others.
        for batch in range(0 if day < 4 else 15, 20):
            seen.shown(_identities(10, f"{batch}-"), listed_at)
        seen.forget(listed_at - timedelta(days=14), listed_at)
        kept = [batch for batch in range(20) if seen.entries(_identities(10, f"{batch}-"))]
        assert kept == list(range(0 if day < 4 else 6, 20))


def test_a_rejected_version_that_is_uploaded_again_is_planned_and_remembered_anew(seen: ProcessedIndex) -> None:
    [photo] = _identities(1)
    landed = LandedObject("a.jpg", 3, "etag", NOW)
    again = LandedObject("a.jpg", 3, "etag", NOW + timedelta(hours=1))
    _commit(seen, 1, [photo], rejected=1)
    assert seen.entries([photo])[photo].covers(landed)
    assert not seen.entries([photo])[photo].covers(again)
    seen.planned(2, [(photo, again.arrived_at)], again.arrived_at)
    assert seen.entries([photo])[photo].covers(again)
    seen.committed(2, Outcome(NOW + timedelta(hours=2), NOW.date(), 1, 0, ()))
    assert seen.entries([photo])[photo].featurized


def test_a_reject_from_a_clock_that_runs_fast_is_no_arrival_again_and_again(seen: ProcessedIndex) -> None:
    [photo] = _identities(1)
    tomorrow = NOW + timedelta(days=1)
    seen.planned(1, [(photo, tomorrow)], NOW)
    seen.committed(1, Outcome(NOW, NOW.date(), 0, 1, (photo,)))
    assert seen.entries([photo])[photo].covers(LandedObject("a.jpg", 3, "etag", tomorrow))


def test_a_copy_holds_what_is_committed_and_the_original_goes_on(seen: ProcessedIndex, tmp_path: Path) -> None:
    done, in_hand = _identities(10), _identities(10, "in hand")
    _commit(seen, 1, done)
    _plan(seen, 2, in_hand)
    facts = seen.copy_committed(tmp_path / "copy.sqlite")
    _commit(seen, 3, _identities(1, "later"))
    copy = ProcessedIndex(tmp_path / "copy.sqlite")
    assert set(copy.entries(done + in_hand)) == set(done)
    assert copy.info == facts
    assert (facts.through, facts.snapshot, facts.snapshot_objects) == (1, 1, 10)
    copy.close()


def test_an_identity_names_nobody_and_tells_versions_and_places_apart() -> None:
    here, there = StorageLocation("s3://one/landing"), StorageLocation("s3://two/landing")
    photo = LandedObject("anna/kiwi.jpg", 3, "etag", NOW)
    same_version_listed_later = LandedObject("anna/kiwi.jpg", 3, "etag", NOW + timedelta(days=1))
    replaced = LandedObject("anna/kiwi.jpg", 3, "another", NOW)
    assert identity(here, photo) == identity(here, same_version_listed_later)
    assert len({identity(here, photo), identity(there, photo), identity(here, replaced)}) == 3
    assert len(identity(here, photo)) == 16
    assert b"anna" not in identity(here, photo)
