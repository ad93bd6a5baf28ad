"""What a run of the stream has done so far, and its pace."""

import threading
import time
from collections import Counter, deque
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

from ops.wording import duration, quantity
from streaming.micro_batch import BatchReport

PACE_WINDOW_S = 60.0


@dataclass(frozen=True)
class RunTotals:
    """What a run did in `seconds`; its pace is over those in which batches were in hand, None without photos."""

    batches: int
    photos: int
    rejects: Counter[str]
    seconds: float
    photos_per_s: float | None

    def sentence(self) -> str:
        """`Done: 120 photos and 3 rejects in 4 batches, in 2 min; 31.2 photos/s while at work.`"""
        pace = "" if self.photos_per_s is None else f"; {self.photos_per_s:,.1f} photos/s while at work"
        return (
            f"Done: {quantity(self.photos, 'photo')} and {quantity(self.rejects.total(), 'reject')} "
            f"in {quantity(self.batches, 'batch', 'batches')}, in {duration(timedelta(seconds=self.seconds))}{pace}."
        )


class RunStats:
    """Adds up the batches of a run. Its work clock stands still while no batch is in hand. All methods lock."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started_s = time.monotonic()
        self._batches = 0
        self._photos = 0
        self._replayed_photos = 0
        self._rejects: Counter[str] = Counter()
        self._in_hand: set[int] = set()
        self._worked_s = 0.0
        self._working_since_s = 0.0
        # The work clock at the end of each batch, and the batch's photos.
        self._recent: deque[tuple[float, int]] = deque([(0.0, 0)])

    def on_stage(self, batch: int, stage: str, seconds: float) -> None:
        """A stage of a batch ended; the end of its plan says when the batch began."""
        if stage != "plan":
            return
        with self._lock:
            if not self._in_hand:
                self._working_since_s = time.monotonic() - seconds
            self._in_hand.add(batch)

    def on_batch(self, report: BatchReport) -> None:
        """A batch is committed."""
        # The photos of a replayed batch were worked by a run before.
        replayed = report.photos if report.replayed else 0
        with self._lock:
            self._batches += 1
            self._photos += report.photos
            self._replayed_photos += replayed
            self._rejects.update(report.rejects)
            self._recent.append((self._clock_s(), report.photos - replayed))
            while len(self._recent) > 2 and self._recent[-1][0] - self._recent[1][0] >= PACE_WINDOW_S:
                self._recent.popleft()
            if self._in_hand == {report.batch}:
                self._worked_s = self._clock_s()
            self._in_hand.discard(report.batch)

    @property
    def photos_per_s(self) -> float | None:
        """The pace between the ends of two batches, a minute of work or little more apart; None before the first."""
        with self._lock:
            (first_s, _), (last_s, _) = self._recent[0], self._recent[-1]
            photos = sum(photos for _, photos in islice(self._recent, 1, None))
            return photos / (last_s - first_s) if last_s > first_s else None

    def totals(self) -> RunTotals:
        """What the run has done so far."""
        with self._lock:
            worked, worked_s = self._photos - self._replayed_photos, self._clock_s()
            pace = worked / worked_s if worked and worked_s else None
            seconds = time.monotonic() - self._started_s
            return RunTotals(self._batches, self._photos, Counter(self._rejects), seconds, pace)

    def _clock_s(self) -> float:
        return self._worked_s + (time.monotonic() - self._working_since_s if self._in_hand else 0.0)
