"""What waits: each version once, whoever tells of it and in whatever order."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from store.objects.landing import LandedObject
from store.objects.location import StorageLocation
from store.settings import load_settings
from store.state.plans import Plan
from streaming.discovery.arrivals import Arrivals
from streaming.discovery.in_flight_messages import Arrival
from streaming.discovery.processed_index import ProcessedIndex

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
OLD = LandedObject("a.jpg", 1, "one", NOW)
NEW = LandedObject("a.jpg", 2, "two", NOW + timedelta(seconds=5))
OTHER = LandedObject("b.jpg", 4, "three", NOW - timedelta(seconds=5))


@pytest.fixture
def arrivals(tmp_path: Path) -> Iterator[Arrivals]:
    home = replace(load_settings(home=str(tmp_path)).places(), landing=StorageLocation("s3://bucket/landing"))
    seen = ProcessedIndex(tmp_path / "seen.sqlite")
    yield Arrivals(home, seen)
    seen.close()


def _told(landed: LandedObject, sequencer: str, message: int = 1) -> Arrival:
    return Arrival(landed, sequencer, message)


def _plan(arrivals: Arrivals, most: int = 10) -> tuple[list[LandedObject], list[Arrival]]:
    objects = arrivals.oldest(most)
    plan = Plan(1, "nonce", NOW, NOW.date(), "unused", "", "unused", tuple(objects))
    return objects, arrivals.planned(plan)


def test_the_oldest_come_first_and_stay_until_they_are_planned(arrivals: Arrivals) -> None:
    arrivals.add_listed([OLD, OTHER], 1)
    assert arrivals.oldest(10) == arrivals.oldest(10) == [OTHER, OLD]
    assert (arrivals.backlog(False).files, arrivals.backlog(False).bytes) == (2, 5)
    assert arrivals.backlog(False).oldest_arrived_at == OTHER.arrived_at
    assert _plan(arrivals, most=1) == ([OTHER], [])
    assert arrivals.oldest(10) == [OLD]


def test_what_a_listing_and_two_messages_tell_of_waits_once_and_settles_both_messages(arrivals: Arrivals) -> None:
    arrivals.add_listed([OLD], 1)
    first, again = _told(OLD, "0A", 1), _told(OLD, "0A", 2)
    assert arrivals.add_messages([first, again]) == []
    assert _plan(arrivals) == ([OLD], [first, again])
    arrivals.add_listed([OLD], 2)
    assert arrivals.add_messages([again]) == [again]
    assert arrivals.oldest(10) == []


@pytest.mark.parametrize("late_one_first", [False, True])
def test_of_two_versions_of_a_key_the_later_one_waits(arrivals: Arrivals, late_one_first: bool) -> None:
    told = [_told(OLD, "0055AED6DCD90281E5", 1), _told(NEW, "0055AED6DCD90281E6", 2)]
    for arrival in reversed(told) if late_one_first else told:
        arrivals.add_messages([arrival])
    objects, settled = _plan(arrivals)
    assert objects == [NEW]
    assert sorted(arrival.message for arrival in settled) == [1, 2]


def test_sequencers_tell_the_order_when_the_times_do_not(arrivals: Arrivals) -> None:
    same_time = replace(NEW, arrived_at=OLD.arrived_at)
    arrivals.add_messages([_told(same_time, "0B"), _told(OLD, "0A")])
    assert arrivals.oldest(10) == [same_time]


def test_a_message_that_was_overtaken_by_a_planned_version_needs_nothing(arrivals: Arrivals) -> None:
    arrivals.add_messages([_told(NEW, "0B")])
    _plan(arrivals)
    late = _told(OLD, "0A")
    assert arrivals.add_messages([late]) == [late]
    newer = _told(replace(OLD, etag="three"), "0C")
    assert arrivals.add_messages([newer]) == []


def test_what_is_gone_when_a_later_remove_gone_waits_no_longer_unless_a_message_told_of_it(
    arrivals: Arrivals,
) -> None:
    arrivals.add_listed([OLD, OTHER], 1)
    arrivals.add_messages([_told(OTHER, "0A")])
    arrivals.add_listed([], 2)
    arrivals.remove_gone(2)
    assert arrivals.oldest(10) == [OTHER]


def test_a_version_listed_before_the_one_that_waits_does_not_take_its_place(arrivals: Arrivals) -> None:
    arrivals.add_messages([_told(NEW, "0B")])
    arrivals.add_listed([OLD], 1)
    assert arrivals.oldest(10) == [NEW]
