"""One at a time works on a home's tables, and a dead one blocks nobody for long."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from store.errors import HomeInUse, StateDamaged
from store.home import Home
from store.objects.operations import overwrite, read
from store.state import lease
from store.state.lease import LEASE_KEY, hold_lease


@pytest.fixture(autouse=True)
def quick_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LOOK_S", 0.05)


def _left_by_a_killed_process(home: Home, age: timedelta) -> None:
    until = datetime.now(UTC) + lease.LASTS - age
    left = {"work": "fruits reproject", "holder": "elsewhere, process 7", "nonce": "theirs"}
    stamps = {"since": until.isoformat(), "until": until.isoformat()}
    overwrite(home.state, LEASE_KEY, json.dumps(left | stamps).encode())


def test_a_lease_that_was_given_back_is_free_at_once(home: Home) -> None:
    said: list[str] = []
    for _ in range(2):
        with hold_lease(home, "a test", said.append) as check:
            check()
    assert said == []


def test_of_many_at_once_one_works_at_a_time(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.05)
    start, at_work, worked = threading.Barrier(4), threading.Lock(), []
    refused = threading.Semaphore(0)

    def work(name: str) -> bool:
        start.wait()
        try:
            with hold_lease(home, name, lambda _: None):
                assert at_work.acquire(blocking=False)
                worked.append(name)
                for _ in range(3):
                    assert refused.acquire(timeout=60)
                at_work.release()
        except HomeInUse as error:
            assert "is at work on" in str(error)
            refused.release()
            return False
        return True

    with ThreadPoolExecutor(4) as pool:
        won = list(pool.map(work, "abcd"))
    assert (sum(won), len(worked)) == (1, 1)


def test_a_lease_that_has_ended_is_taken_over_at_once(home: Home) -> None:
    _left_by_a_killed_process(home, timedelta(hours=1))
    said: list[str] = []
    with hold_lease(home, "a test", said.append):
        assert json.loads(read(home.state, LEASE_KEY))["work"] == "a test"
    assert said == []


def test_a_lease_of_a_killed_process_is_waited_for(home: Home) -> None:
    _left_by_a_killed_process(home, lease.LASTS + lease.CLOCK_SKEW - timedelta(seconds=0.5))
    said: list[str] = []
    with hold_lease(home, "a test", said.append):
        pass
    assert said == ["Waiting for a lease of fruits reproject (elsewhere, process 7) to be renewed or to end …"]


def test_a_dead_process_whose_clock_was_ahead_is_waited_for_no_longer(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    _left_by_a_killed_process(home, -timedelta(hours=1))
    monkeypatch.setattr(lease, "LASTS", timedelta(seconds=0.2))
    monkeypatch.setattr(lease, "CLOCK_SKEW", timedelta(seconds=0.1))
    with hold_lease(home, "a test", lambda _: None):
        assert json.loads(read(home.state, LEASE_KEY))["work"] == "a test"


def test_a_process_that_wakes_up_after_its_lease_is_told_so_before_it_could_renew_it(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LASTS", timedelta(seconds=0.2))
    with hold_lease(home, "a test", print) as check:
        threading.Event().wait(0.4)
        with pytest.raises(HomeInUse, match="slept past the end of its lease"):
            check()


def test_a_process_that_slept_past_its_lease_is_told_so(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.05)
    with hold_lease(home, "a test", print) as check:
        _left_by_a_killed_process(home, timedelta(0))
        with pytest.raises(HomeInUse, match=r"fruits reproject \(elsewhere, process 7\) took over the lease"):
            for _ in range(600):
                check()
                time.sleep(0.05)
    assert json.loads(read(home.state, LEASE_KEY))["nonce"] == "theirs"


def test_a_damaged_lease_is_refused_with_what_to_do(home: Home) -> None:
    overwrite(home.state, LEASE_KEY, b"?")
    with pytest.raises(StateDamaged, match=r"lease\.json cannot be read; delete it"), hold_lease(home, "a test", print):
        pass


def test_work_that_gives_way_lets_the_others_in_between(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.05)
    order: list[str] = []
    at_work = threading.Event()

    def many_times() -> None:
        for _ in range(6):
            with hold_lease(home, "fruits refeaturize", lambda _: None, gives_way=True):
                order.append("little")
                at_work.set()
                time.sleep(0.3)

    with ThreadPoolExecutor(1) as pool:
        going = pool.submit(many_times)
        assert at_work.wait(60)
        with hold_lease(home, "fruits maintain", lambda _: None):
            order.append("other")
            before = len(order)
            # Longer than the one that gives way would look before it gives up.
            time.sleep(0.6)
            assert len(order) == before
        going.result(60)
    assert order.count("little") == 6
    assert 1 <= order.index("other") <= 2


def test_two_that_give_way_take_turns(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "RENEWED_EVERY_S", 0.02)
    order: list[str] = []
    both = threading.Barrier(2)

    def many_times(name: str) -> None:
        both.wait(60)
        for _ in range(4):
            with hold_lease(home, "fruits refeaturize", lambda _: None, gives_way=True):
                order.append(name)
                time.sleep(0.2)

    with ThreadPoolExecutor(2) as pool:
        for going in [pool.submit(many_times, name) for name in "ab"]:
            going.result(60)
    assert (order.count("a"), order.count("b")) == (4, 4)
    # Neither waits for all of the other's.
    assert set(order[:4]) == {"a", "b"}
