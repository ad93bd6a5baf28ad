"""Messages that were received and not yet deleted: what waits to be taken, what is settled, what has to be renewed."""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import count, islice

from store.objects.landing import LandedObject


@dataclass(frozen=True, slots=True)
class Arrival:
    """A landed object that a message announced; `message` is the number of that message."""

    landed: LandedObject
    sequencer: str | None
    message: int


@dataclass(slots=True)
class _Message:
    id: str
    receipt: str
    unsettled: set[Arrival]
    is_understood: bool


class InFlightMessages:
    """The messages of one queue, for one thread at a time; times are seconds of a monotonic clock.

    A message that is not fully understood is held until its arrivals are settled, but is neither renewed, nor deleted,
    nor given back: it must come again and again until the queue's redrive policy moves it.
    """

    def __init__(self) -> None:
        self._messages: dict[int, _Message] = {}
        self._numbers: dict[str, int] = {}
        self._next_number = count(1)
        self._waiting: deque[Arrival] = deque()
        self._settled: deque[int] = deque()
        # By the time at which they come back, soonest first.
        self._comes_back_s: dict[int, float] = {}
        self._unsettled = 0

    def __len__(self) -> int:
        return len(self._messages)

    @property
    def all_settled(self) -> bool:
        return self._unsettled == 0

    def hold(
        self,
        id: str,
        receipt: str,
        announced: Iterable[tuple[LandedObject, str | None]],
        is_understood: bool,
        until_s: float,
    ) -> None:
        """Keep a received message, which is invisible until then; one that is held already gets its newest receipt."""
        number = self._numbers.get(id)
        if number is not None:
            self._messages[number].receipt = receipt
            self.renewed([number], until_s)
            return
        number = next(self._next_number)
        # A message may announce the same object twice.
        arrivals = dict.fromkeys(Arrival(landed, sequencer, number) for landed, sequencer in announced)
        self._messages[number] = _Message(id, receipt, set(arrivals), is_understood)
        self._numbers[id] = number
        self._waiting.extend(arrivals)
        if arrivals:
            self._unsettled += 1
            self.renewed([number], until_s)
        else:
            self._finish(number)

    def take(self, most: int) -> list[Arrival]:
        """The arrivals that waited longest, each once; those of a removed message come again with it."""
        taken: list[Arrival] = []
        while self._waiting and len(taken) < most:
            arrival = self._waiting.popleft()
            if arrival.message in self._messages:
                taken.append(arrival)
        return taken

    def settle(self, arrivals: Iterable[Arrival]) -> None:
        """Nothing more is to be done for these; those of a removed message are ignored."""
        for arrival in arrivals:
            message = self._messages.get(arrival.message)
            if message is not None and arrival in message.unsettled:
                message.unsettled.remove(arrival)
                if not message.unsettled:
                    self._unsettled -= 1
                    self._finish(arrival.message)

    def to_delete(self, most: int) -> list[int]:
        """Settled messages, each handed out once."""
        return [self._settled.popleft() for _ in range(min(most, len(self._settled)))]

    def to_renew(self, before_s: float, most: int) -> list[int]:
        """Messages that come back before then, soonest first; each handed out once until it is renewed."""
        due = [number for number, back_s in islice(self._comes_back_s.items(), most) if back_s < before_s]
        for number in due:
            del self._comes_back_s[number]
        return due

    @property
    def next_comes_back_s(self) -> float | None:
        return next(iter(self._comes_back_s.values()), None)

    def receipts(self, numbers: Iterable[int]) -> dict[int, str]:
        """The newest receipts of those that are still held."""
        return {number: self._messages[number].receipt for number in numbers if number in self._messages}

    def renewed(self, numbers: Iterable[int], until_s: float) -> None:
        """These are invisible until then, which is not before what was said of any other message."""
        for number in numbers:
            message = self._messages.get(number)
            if message is not None and message.unsettled and message.is_understood:
                self._comes_back_s.pop(number, None)
                self._comes_back_s[number] = until_s

    def remove(self, numbers: Iterable[int]) -> None:
        """These are deleted, or no longer ours."""
        for number in numbers:
            message = self._messages.pop(number, None)
            if message is not None:
                del self._numbers[message.id]
                self._comes_back_s.pop(number, None)
                self._unsettled -= bool(message.unsettled)

    def _finish(self, number: int) -> None:
        self._comes_back_s.pop(number, None)
        if self._messages[number].is_understood:
            self._settled.append(number)
        else:
            self.remove([number])
