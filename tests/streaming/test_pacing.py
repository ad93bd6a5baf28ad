"""A batch keeps to its caps, and cutting it into tasks loses and doubles nothing."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from store.objects.landing import LandedObject
from streaming.pacing import LONGEST_TASK_S, SHORTEST_TASK_S, Pacer, estimated_work_s, split_into_tasks

ARRIVED_AT = datetime(2026, 10, 3, tzinfo=UTC)


def _landed(sizes_bytes: list[int]) -> list[LandedObject]:
    return [LandedObject(f"{number}.jpg", size, "e", ARRIVED_AT) for number, size in enumerate(sizes_bytes)]


sizes = st.lists(st.integers(min_value=0, max_value=64 * 2**20), min_size=1, max_size=300)


@given(sizes=sizes, slots=st.integers(min_value=1, max_value=64))
def test_every_object_is_in_exactly_one_task(sizes: list[int], slots: int) -> None:
    objects = _landed(sizes)
    tasks = split_into_tasks(objects, slots)
    assert sorted((landed for task in tasks for landed in task), key=objects.index) == objects
    assert all(tasks)


@given(sizes=sizes, slots=st.integers(min_value=1, max_value=16))
def test_slots_that_take_task_after_task_end_together(sizes: list[int], slots: int) -> None:
    busy_s = [0.0] * slots
    for task in split_into_tasks(_landed(sizes), slots):
        busy_s[busy_s.index(min(busy_s))] += sum(map(estimated_work_s, task))
    largest_s = estimated_work_s(_landed([max(sizes)])[0])
    assert max(busy_s) - min(busy_s) <= max(SHORTEST_TASK_S, largest_s)


@given(sizes=sizes, slots=st.integers(min_value=1, max_value=16))
def test_no_task_is_long_but_for_a_single_large_photo(sizes: list[int], slots: int) -> None:
    for task in split_into_tasks(_landed(sizes), slots):
        assert len(task) == 1 or sum(map(estimated_work_s, task)) <= LONGEST_TASK_S


def test_a_trickle_is_one_task() -> None:
    assert len(split_into_tasks(_landed([2**20] * 3), slots=8)) == 1


@given(sizes=sizes, max_files=st.integers(1, 50), max_bytes=st.integers(1, 2**28))
def test_a_batch_is_the_longest_head_within_the_caps(sizes: list[int], max_files: int, max_bytes: int) -> None:
    waiting = _landed(sizes)
    batch = Pacer(max_files, max_bytes).fill(waiting)
    assert list(batch) == waiting[: len(batch)]
    assert 1 <= len(batch) <= max_files
    assert len(batch) == 1 or sum(landed.size_bytes for landed in batch) <= max_bytes


def test_photos_in_a_format_that_is_slow_to_decode_fill_a_batch_and_a_task_sooner() -> None:
    quick = _landed([2**21] * 2000)
    slow = [LandedObject(f"{number}.HEIC", 2**21, "e", ARRIVED_AT) for number in range(2000)]
    assert len(Pacer(10_000, 2**40).fill(quick)) > 8 * len(Pacer(10_000, 2**40).fill(slow))
    assert len(split_into_tasks(slow, 2)) > 4 * len(split_into_tasks(quick, 2))


def test_a_batch_that_was_quick_is_followed_by_a_larger_one() -> None:
    waiting = _landed([2**22] * 5000)
    pacer = Pacer(10_000, 2**40)
    first = pacer.fill(waiting)
    pacer.start(first, waiting=len(waiting) - len(first))
    pacer.end()
    assert len(first) < len(pacer.fill(waiting)) <= 4 * len(first) + 1


def test_a_trickle_says_nothing_of_the_pace() -> None:
    waiting = _landed([2**22] * 5000)
    pacer = Pacer(10_000, 2**40)
    before = pacer.fill(waiting)
    pacer.start(before[:1], waiting=0)
    pacer.end()
    assert pacer.fill(waiting) == before
