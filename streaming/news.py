"""What the two processes of a stream, the planner beside Spark and the service, tell each other: small files."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from pydantic import TypeAdapter

from streaming.discovery.arrivals import Backlog
from streaming.discovery.processed_index import Outcome
from streaming.discovery.sqs import QueueDepth


@dataclass(frozen=True)
class QueueNews:
    """How the queue stands: about how many messages it holds, how many of them are in hand, how many were strange."""

    depth: QueueDepth
    held: int
    unknown: int


@dataclass(frozen=True)
class LeftBehind:
    """Files that a drain leaves for the next start because they kept changing: how many, and some of their keys."""

    files: int
    keys: tuple[str, ...]


@dataclass(frozen=True)
class PlannerReport:
    """What the planner last told the service; `planned` is the number of the newest plan that Spark was told of.

    `passed_over` counts what the last listing left out on purpose; `uncleared` photos have their rows and could not be
    cleared away.
    Every photo that had settled below the landing prefix before `caught_up_to` is planned; None while some wait.
    By the time a watcher hears of it, they are committed. A drain that has caught up tells what it leaves.
    """

    backlog: Backlog
    planned: int | None = None
    caught_up_to: datetime | None = None
    queue: QueueNews | None = None
    passed_over: dict[str, int] = field(default_factory=dict)
    left: LeftBehind | None = None
    uncleared: int = 0
    error: str | None = None
    message: str = ""
    told_at: datetime = field(default_factory=lambda: datetime.now(UTC))


@dataclass(frozen=True)
class PlannerChannel:
    """A directory that both processes know."""

    folder: Path

    def tell(self, news: PlannerReport) -> None:
        """Replace what the service reads."""
        _replace(self._news, _NEWS.dump_json(news))

    def hear(self) -> PlannerReport | None:
        """What the planner last told, or None before it told anything."""
        return _NEWS.validate_json(self._news.read_bytes()) if self._news.exists() else None

    def hold(self) -> None:
        """Tell the planner to plan nothing more."""
        self._hold.touch()

    @property
    def is_held(self) -> bool:
        return self._hold.exists()

    def close(self) -> None:
        """Tell the service that nothing more is found, and that what was settled is off the queue."""
        self._closed.touch()

    @property
    def is_closed(self) -> bool:
        return self._closed.exists()

    def committed(self, batch: int, outcome: Outcome) -> None:
        """Tell the planner that a batch has its rows."""
        note = {
            "at": outcome.at.isoformat(),
            "ingest_date": outcome.ingest_date.isoformat(),
            "photos": outcome.photos,
            "rejects": outcome.rejects,
            "rejected": [identity.hex() for identity in outcome.rejected],
            "retried": [(batch, day.isoformat()) for batch, day in outcome.retried],
        }
        _replace(self.folder / f"{batch:012d}.committed", json.dumps(note).encode())

    def take_committed(self) -> Iterator[tuple[int, Outcome]]:
        """The batches that were committed since the last call, in the order of their numbers."""
        for path in sorted(self.folder.glob("*.committed")):
            note = json.loads(path.read_bytes())
            yield (
                int(path.stem),
                Outcome(
                    at=datetime.fromisoformat(note["at"]),
                    ingest_date=date.fromisoformat(note["ingest_date"]),
                    photos=note["photos"],
                    rejects=note["rejects"],
                    rejected=tuple(bytes.fromhex(identity) for identity in note["rejected"]),
                    retried=tuple((batch, date.fromisoformat(day)) for batch, day in note["retried"]),
                ),
            )
            path.unlink()

    def left(self, name: bytes) -> None:
        """Tell the planner that the object of an identity could not be cleared away."""
        (self.folder / f"{name.hex()}.left").touch()

    @property
    def left_and_not_taken(self) -> int:
        """How many were told that the planner has not heard of."""
        return sum(1 for _ in self.folder.glob("*.left"))

    def take_left(self) -> list[bytes]:
        """The identities that were told since the last call."""
        paths = list(self.folder.glob("*.left"))
        for path in paths:
            path.unlink()
        return [bytes.fromhex(path.stem) for path in paths]

    @property
    def _news(self) -> Path:
        return self.folder / "news.json"

    @property
    def _hold(self) -> Path:
        return self.folder / "hold"

    @property
    def _closed(self) -> Path:
        return self.folder / "closed"


def _replace(path: Path, content: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(content)
    fresh.replace(path)


_NEWS = TypeAdapter(PlannerReport)
