"""The tour: photos are dropped while the stream runs, and the tables are queried at the end."""

import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from rich.console import Console

from features.errors import InvalidSetting
from features.settings import Settings
from ops.demo_photos import DemoFile, demo_files
from streaming.micro_batch import BatchReport
from streaming.service import Watcher, run_stream
from streaming.source import News


class Progress(AbstractContextManager["Progress"], Protocol):
    """Something that shows a running stream."""

    @property
    def watcher(self) -> Watcher: ...


def run_demo(settings: Settings, count: int, stop: threading.Event, progress: Progress, console: Console) -> None:
    """Drop `count` drawn photos into the landing directory while the stream runs, then query what became of them.

    Replay drops only what is not there yet, so a second run, or one after a kill, doubles nothing.
    Raises InvalidSetting when the landing is not on this machine's disk.
    """
    home = settings.places()
    if not home.landing.is_local:
        raise InvalidSetting("The demo drops photos on this machine's disk; use a local landing.")
    dropper = _Dropper(home.landing.directory, count)
    with progress:
        run_stream(settings, drain=False, stop=stop, watcher=_stop_when_done(progress.watcher, dropper, stop))
    dropper.finish()
    console.print(f"\nDropped {dropper.dropped} files; {count - dropper.dropped} of the {count} were there already.\n")
    show_results(settings, console)


class _Dropper:
    """Draws and drops files from a thread of its own, once told that the stream is up."""

    def __init__(self, landing: Path, count: int) -> None:
        self._landing = landing
        self._count = count
        self._thread = threading.Thread(target=self._drop_all, name="dropper", daemon=True)
        self._started = False
        self._failure: Exception | None = None
        self.dropped = 0
        self.finished_at: datetime | None = None

    def start(self) -> None:
        if not self._started:
            self._started = True
            self._thread.start()

    def finish(self) -> None:
        """Raises what went wrong while dropping."""
        if self._failure is not None:
            raise self._failure

    def _drop_all(self) -> None:
        try:
            for file in demo_files(self._count):
                self.dropped += _drop(self._landing, file)
        except Exception as error:
            self._failure = error
        self.finished_at = datetime.now(UTC)


def _drop(landing: Path, file: DemoFile) -> bool:
    target = landing / file.key
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.part")
    unfinished.write_bytes(file.body)
    unfinished.replace(target)
    return True


def _stop_when_done(inner: Watcher, dropper: _Dropper, stop: threading.Event) -> Watcher:
    def on_news(news: News) -> None:
        inner.on_news(news)
        dropper.start()
        dropped, done = dropper.finished_at, news.caught_up_to
        if dropped is not None and done is not None and done > dropped:
            stop.set()

    on_batch: Callable[[BatchReport], None] = inner.on_batch
    return Watcher(on_batch, on_news)


def show_results(settings: Settings, console: Console) -> None:
    """Ask the tables three things, with the command a person would type."""
    for title, sql in _QUESTIONS.items():
        console.print(f"[bold]{title}[/bold]")
        console.print(f'[dim]fruits query "{sql}"[/dim]', highlight=False, soft_wrap=True)
        subprocess.run([sys.executable, "-m", "ops.cli", "query", "--home", settings.home, sql], check=True)
        console.print()


_QUESTIONS = {
    "Photos per label": (
        "SELECT label, count(*) AS photos, round(avg(width * height) / 1e6, 1) AS megapixels, "
        "count(DISTINCT format) AS formats FROM features GROUP BY label ORDER BY label"
    ),
    "Rejects by reason": (
        "SELECT reason, count(*) AS files, min(detail) AS example FROM rejects GROUP BY reason ORDER BY reason"
    ),
    "Nearest neighbours of one photo": (
        "WITH one AS (SELECT image_id, label, features FROM features ORDER BY image_id LIMIT 1) "
        "SELECT one.label AS photo, f.label AS neighbour, "
        "round(list_cosine_similarity(one.features, f.features), 4) AS cosine, split_part(f.source, '/landing/', 2) "
        "AS file FROM one, features f WHERE f.image_id <> one.image_id ORDER BY cosine DESC LIMIT 5"
    ),
}
