"""Answers in storage: many written at once, those of erased objects deleted."""

import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import obstore

from store.answers.answer import Answer, answer_body, answer_key, read_answer
from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, retry_storage
from store.objects.landing import LandedObject
from store.objects.location import StorageLocation
from store.objects.operations import delete_all
from store.state.erasures import ErasureFilter, read_erasures

# A put takes some 30 ms at S3, so that a busy laptop needs three at once, and a cluster these. A disk answers at once,
# where threads only cost.
_AT_ONCE = 16
_LEAST_SHARE = 4

_T = TypeVar("_T")


def write_answers(home: Home, answers: Sequence[Answer]) -> None:
    """Write answers, whatever was there; of several for one key the last stays. Replay writes the same bytes.

    Killed at any point some are written, each whole. Raises StorageRefused, StorageUnavailable.
    """
    last = list({answer.key: answer for answer in answers}.values())
    if last:
        home.answers.create()
        _in_shares(home, last, lambda answer: _put(home, answer))


def write_unless_erased(home: Home, landings: Iterable[StorageLocation], answers: Sequence[Answer]) -> None:
    """Write answers but those to objects that somebody asked to erase, in any of these landings; these are deleted.

    An erasure that begins meanwhile finds them, or they are deleted here. Killed at any point, a replay puts it right.
    Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    places = tuple(landings)
    before = read_erasures(home)
    erased = set(_covered(ErasureFilter(before), places, answers))
    # One that was written before a kill.
    delete_answers(home, erased)
    written = [answer for answer in answers if answer not in erased]
    write_answers(home, written)
    if (after := read_erasures(home)) != before:
        # It may have searched the answers before the last one was written.
        delete_answers(home, _covered(ErasureFilter(after), places, written))


def delete_answers(home: Home, answers: Iterable[Answer]) -> int:
    """Delete the answers to these versions of objects, and say how many there were; those to other versions stay.

    Replay finds nothing left to do. Raises StorageRefused, StorageUnavailable.
    """
    gone = []
    for answer in answers:
        stored = read_answer(home, answer.key)
        if stored is not None and (stored.key, stored.etag) == (answer.key, answer.etag):
            gone.append(answer_key(answer.key))
    return delete_all(home.answers, gone)


def _covered(erasures: ErasureFilter, landings: Sequence[StorageLocation], answers: Iterable[Answer]) -> list[Answer]:
    return [
        answer
        for answer in answers
        for landed in [LandedObject(answer.key, 0, answer.etag, answer.arrived_at)]
        if any(erasures.covers(landing, landed) for landing in landings)
    ]


def _put(home: Home, answer: Answer) -> None:
    key, body = answer_key(answer.key), answer_body(answer)
    retry_storage(
        f"write {home.answers.uri_of(key)}",
        lambda: obstore.put(home.answers.store, key, body),
        again=UNKNOWN_OUTCOME,
        photo=answer.key,
    )


def _in_shares(home: Home, things: Sequence[_T], work: Callable[[_T], None]) -> None:
    def do(share: Sequence[_T]) -> None:
        for thing in share:
            work(thing)

    threads = 1 if home.answers.is_local else min(_AT_ONCE, math.ceil(len(things) / _LEAST_SHARE))
    if threads == 1:
        do(things)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="answers") as pool:
        list(pool.map(do, (things[turn::threads] for turn in range(threads))))
