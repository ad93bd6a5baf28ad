"""Answers to the app: after each commit, in the order of batches, before a photo of theirs is cleared away."""

import threading
from collections import deque
from collections.abc import Callable, Sequence

from features.rejects import Reason
from store.answers.answer import Answer, read_answer
from store.answers.batch import answers_of_batch
from store.answers.progress import answered_through, forget_answered, record_answered
from store.answers.written import write_unless_erased
from store.home import Home
from store.state.heartbeat import check_claim
from store.state.plans import Plan, Result, read_plan, read_result
from store.tables.handles import open_tables

# Beyond these a commit waits: what a kill leaves to the next start stays little.
MOST_WAITING = 2
# Of these there may be a later version, which was answered first.
_PERHAPS_REPLACED = {Reason.REPLACED, Reason.MISSING}


class Answering:
    """Writes the answers of each batch in a thread of its own, then hands the batch on; with `is_on` False only that.

    What a killed process left of committed batches is written first. How far it came is durable, so that the results of
    batches without answers stay. `failure` is why it stopped, if it did.
    """

    def __init__(self, home: Home, is_on: bool, nonce: str, hand_on: Callable[[Plan, Result], None]) -> None:
        self._home = home
        self._is_on = is_on
        self._nonce = nonce
        self._hand_on = hand_on
        self._waiting: deque[tuple[Plan, Result]] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)
        self._through, self._committed = self._begin() if is_on else (0, 0)
        self.failure: BaseException | None = None

    @property
    def through(self) -> float:
        """The last batch whose photos need no answer any more."""
        return self._through if self._is_on else float("inf")

    def start(self) -> None:
        if self._is_on:
            self._thread.start()
        else:
            forget_answered(self._home)

    def committed(self, plan: Plan, result: Result) -> None:
        """A batch is committed; returns when few batches wait for their answers, and at a failure."""
        if not self._is_on:
            self._hand_on(plan, result)
            return
        with self._changed:
            self._waiting.append((plan, result))
            self._changed.notify_all()
            while len(self._waiting) > MOST_WAITING and self.failure is None:
                self._changed.wait()

    def close(self) -> None:
        """Write the answers of all batches that are committed, and end."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        if self._thread.is_alive():
            self._thread.join()

    def _begin(self) -> tuple[int, int]:
        committed = open_tables(self._home).committed_to_all
        through = answered_through(self._home)
        if through is None:
            # Before the first batch: what is committed from now on has its answers, whatever happens.
            record_answered(self._home, committed)
            through = committed
        # A table that was restored may have fewer batches than had answers.
        return min(through, committed), committed

    def _run(self) -> None:
        try:
            for batch in range(self._through + 1, self._committed + 1):
                self._answer(batch, read_plan(self._home, batch), read_result(self._home, batch))
            while (next_one := self._next()) is not None:
                plan, result = next_one
                self._answer(plan.batch, plan, result)
                with self._changed:
                    self._waiting.popleft()
                    self._changed.notify_all()
        except BaseException as error:
            # The stream looks for it, and stops.
            with self._changed:
                self.failure = error
                self._changed.notify_all()

    def _next(self) -> tuple[Plan, Result] | None:
        with self._changed:
            while not (self._waiting or self._closed):
                self._changed.wait()
            return self._waiting[0] if self._waiting else None

    def _answer(self, batch: int, plan: Plan | None, result: Result | None) -> None:
        # Another stream may have answered a later version since this one was paused.
        check_claim(self._home, self._nonce)
        answers = self._without_replaced(plan, answers_of_batch(self._home, batch, plan, result))
        landings = self._home.landings if plan is None else (self._home.landing_named(plan.landing),)
        write_unless_erased(self._home, landings, answers)
        record_answered(self._home, batch)
        if plan is not None and result is not None:
            self._hand_on(plan, result)
        self._through = batch

    def _without_replaced(self, plan: Plan | None, answers: Sequence[Answer]) -> list[Answer]:
        retried = {row.key for row in plan.retried} if plan is not None else set()
        return [
            answer
            for answer in answers
            if not ((answer.key in retried or answer.reason in _PERHAPS_REPLACED) and self._is_replaced(answer))
        ]

    def _is_replaced(self, answer: Answer) -> bool:
        stored = read_answer(self._home, answer.key)
        return stored is not None and stored.is_of_later_version_than(answer)
