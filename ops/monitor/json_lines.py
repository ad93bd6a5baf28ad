"""What a log collector gets of a running stream: one JSON object a line, without any name of an object or a person."""

import json
import sys
import threading
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Literal

from features.errors import FruitsError
from ops.cli.console import DEBUGGING
from ops.monitor.run_stats import RunStats
from store.objects.faults import is_full
from store.objects.location import printable
from store.settings import Settings

if TYPE_CHECKING:
    from streaming.micro_batch import BatchReport
    from streaming.planner import PlannerReport
    from streaming.service import StreamListener

Level = Literal["info", "warning", "error"]

# None of these can hold a secret, an address of a person, or a name of a photo.
_SETTINGS_TOLD = {
    *(
        "trigger",
        "settle",
        "max_files",
        "max_bytes",
        "queue",
        "backfill",
        "only_new",
        "clean",
        "clean_after",
        "copies",
        "master",
    ),
    *("max_image_bytes", "max_pixels", "max_decode_time", "storage_patience", "metrics"),
}


class JsonLines:
    """Lines on standard output while entered: the start, each stage, each batch, each warning, and the end.

    Every line has `time` (UTC, ISO 8601), `level` and `event`; what belongs to a batch has `batch`, what belongs to a
    stage `stage`. Leaving with an error writes it, and raises it without the names it may hold, unless --debug is on.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._news: PlannerReport | None = None
        self._stats = RunStats()

    @property
    def watcher(self) -> "StreamListener":
        from streaming.service import StreamListener

        return StreamListener(self._on_batch, self._on_planner_report, self._on_stage)

    def __enter__(self) -> "JsonLines":
        self._stats = RunStats()
        places = self._settings.locations()
        told = self._settings.model_dump(mode="json", include=_SETTINGS_TOLD)
        told |= {"home": places.root.uri, "landing": places.landing.uri, "archive": places.archive.uri}
        self._write("info", "start", version=version("fruits-ingestion"), settings=told)
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        if not isinstance(error, Exception):
            if self._news is not None and self._news.unsettled is not None:
                self._write("warning", "left", files=self._news.unsettled.files)
            totals = self._stats.totals()
            self._write("info", "end", **asdict(totals) | {"rejects": totals.rejects.total()})
            return
        kind = type(error).__name__
        if isinstance(error, FruitsError):
            message, retryable = without_photo(str(error), error.photo), error.retryable
        else:
            # A library may name a photo in its own words.
            message, retryable = f"Unexpected {kind}: its message is left out of the log; --debug shows it.", False
            message = "A disk of this machine is full." if is_full(error) else message
        self._write("error", "failed", error=kind, retryable=retryable, message=message)
        if DEBUGGING.is_set() or message == str(error) or is_full(error):
            return
        raise (type(error) if isinstance(error, FruitsError) else FruitsError)(message) from error

    def warn(self, sentence: str) -> None:
        """Something that a person should know and that does not stop the stream; it must not name a photo."""
        self._write("warning", "warning", message=sentence)

    def _on_planner_report(self, news: "PlannerReport") -> None:
        if self._news is None:
            self._write("info", "ready")
        self._news = news

    def _on_stage(self, batch: int, stage: str, seconds: float) -> None:
        self._stats.on_stage(batch, stage, seconds)
        self._write("info", "stage", batch=batch, stage=stage, seconds=seconds)

    def _on_batch(self, report: "BatchReport") -> None:
        self._stats.on_batch(report)
        line: dict[str, object] = {**asdict(report), "total_s": report.total_s, "backlog": {}}
        if self._news is not None:
            line["backlog"] = asdict(self._news.backlog)
            if self._news.queue is not None:
                line["queue"] = asdict(self._news.queue)
        self._write("info", "batch", **line)

    def _write(self, level: Level, event: str, **fields: object) -> None:
        text = json_line(level, event, **fields)
        # Batches end in threads of their own.
        with self._lock:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


def json_line(level: Level, event: str, **fields: object) -> str:
    """One line of a log."""
    return json.dumps(_plain({"time": datetime.now(UTC), "level": level, "event": event, **fields}))


def without_photo(sentence: str, photo: str | None) -> str:
    """The sentence without the key of the photo that it names."""
    if not photo:
        return sentence
    name = printable(photo)
    before, _, after = sentence.partition(name)
    # In a library's reason there can be a path once more.
    end = "." if "/" in after else after
    shown = f"{before}…{end}" if name in sentence else "…"
    return f"{shown} The photo's name is left out of the log; --debug shows it."


def _plain(value: object) -> object:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, dict):
        return {name: _plain(element) for name, element in value.items()}
    return value
