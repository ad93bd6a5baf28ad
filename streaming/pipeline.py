"""Batches in flight: while the last tasks of one batch run and its tables are committed, the next one begins."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from streaming.micro_batch import BatchReport, MicroBatches

IN_FLIGHT = 2
SHORTEST_PAUSE_S = 0.02
LONGEST_PAUSE_S = 0.5


class Pipeline:
    """Runs each batch in a thread of its own, at most two at a time; commits them, and calls `on_batch`, in order."""

    def __init__(self, batches: MicroBatches, on_batch: Callable[[BatchReport], None]) -> None:
        self._batches = batches
        self._on_batch = on_batch
        self._threads = ThreadPoolExecutor(IN_FLIGHT, thread_name_prefix="batch")
        self._in_flight: list[Future[None]] = []
        self._hurried = threading.Event()
        self._closing = threading.Lock()
        self._closed = False

    @property
    def idle(self) -> bool:
        return all(run.done() for run in self._in_flight)

    @property
    def failure(self) -> BaseException | None:
        """What the first batch that failed failed of."""
        return next((run.exception() for run in self._in_flight if run.done() and run.exception()), None)

    def begin(self, batch: int) -> None:
        """Begin a batch; returns when it will soon leave cores idle, or is finished, or at `hurry`.

        After `close` it does nothing: the plan is durable, and the next start takes it up.
        Raises what this batch or one before failed of.
        """
        if len(self._in_flight) == IN_FLIGHT:
            self._in_flight[0].result()
            self._in_flight.pop(0)
        before = self._in_flight[-1] if self._in_flight else None
        with self._closing:
            if self._closed:
                return
            run = self._threads.submit(self._run, batch, before)
            self._in_flight.append(run)
        pause_s = SHORTEST_PAUSE_S
        while not run.done() and not self._hurried.is_set() and not self._batches.nearly_done(batch):
            wait([run], pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
        if run.done():
            run.result()

    def hurry(self) -> None:
        """Let no `begin` wait any longer."""
        self._hurried.set()

    def close(self) -> None:
        """Finish what is in flight; after a failure, give up what follows it. No batch begins any more."""
        with self._closing:
            self._closed = True
        try:
            if self.failure is not None:
                self._batches.give_up()
        finally:
            self._threads.shutdown()

    def _run(self, batch: int, before: Future[None] | None) -> None:
        in_turn: Callable[[], None] = (lambda: None) if before is None else before.result
        self._on_batch(self._batches.run(batch, in_turn))
