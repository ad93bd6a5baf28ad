"""What a person sees of a running stream."""

import time
from collections import Counter, deque
from datetime import UTC, datetime

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from ops.wording import counted, visible
from streaming.micro_batch import BatchReport
from streaming.news import LeftBehind, News
from streaming.service import Watcher

RATE_WINDOW_S = 60.0


class LivePanel:
    """One panel on a terminal that is redrawn as batches finish."""

    def __init__(self, console: Console, title: str) -> None:
        self._title = title
        self._batches = 0
        self._photos = 0
        self._rejects: Counter[str] = Counter()
        self._recent: deque[tuple[float, int]] = deque()
        self._last: BatchReport | None = None
        self._pca_versions: tuple[int, ...] = ()
        self._news: News | None = None
        self._up_since: float | None = None
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)

    @property
    def watcher(self) -> Watcher:
        return Watcher(self._on_batch, self._on_news)

    def __enter__(self) -> "LivePanel":
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self._news is not None and self._news.left is not None:
            self.warn(_left(self._news.left))

    def warn(self, sentence: str) -> None:
        """Say something above the panel."""
        self._live.console.print(visible(sentence), markup=False, highlight=False, soft_wrap=True)

    def _on_batch(self, report: BatchReport) -> None:
        self._batches += 1
        self._photos += report.photos
        self._rejects.update(report.rejects)
        self._recent.append((time.monotonic(), report.photos))
        self._last = report
        if report.photos:
            self._pca_versions = report.pca_versions

    def _on_news(self, news: News) -> None:
        self._up_since = self._up_since or time.monotonic()
        self._news = news

    def _render(self) -> Panel:
        totals = Table.grid(padding=(0, 3))
        totals.add_row(
            _figure("batches", f"{self._batches}"),
            _figure("photos", f"{self._photos:,}"),
            _figure("photos/s", f"{self._rate():.1f}"),
            _figure("rejects", f"{sum(self._rejects.values())}"),
            _figure("PCA", self._versions()),
        )
        return Panel(
            Group(totals, self._backlog(), *self._uncleared(), self._stages()), title=self._title, title_align="left"
        )

    def _versions(self) -> str:
        return "not yet" if not self._pca_versions else " and ".join(f"v{version}" for version in self._pca_versions)

    def _rate(self) -> float:
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - RATE_WINDOW_S:
            self._recent.popleft()
        window_s = min(RATE_WINDOW_S, now - (self._up_since or now))
        return sum(photos for _, photos in self._recent) / max(window_s, 1.0)

    def _backlog(self) -> Text:
        if self._news is None:
            return Text("starting Spark and listing the landing prefix", style="dim")
        backlog = self._news.backlog
        if backlog.oldest_arrived_at is None:
            return Text(f"backlog  none{self._queue()}", style="dim")
        waited_s = (datetime.now(UTC) - backlog.oldest_arrived_at).total_seconds()
        more = " or more" if backlog.at_least else ""
        size = f"{backlog.bytes / 1e6:,.1f} MB  oldest {waited_s:,.0f} s"
        return Text(f"backlog  {backlog.files:,}{more} files  {size}{self._queue()}")

    def _uncleared(self) -> list[Text]:
        count = self._news.uncleared if self._news else 0
        return [Text(f"{counted(count, 'photo')} could not be cleared away", style="yellow")] if count else []

    def _queue(self) -> str:
        queue = self._news.queue if self._news else None
        if queue is None:
            return ""
        strange = f", {queue.unknown} of unknown shape" if queue.unknown else ""
        return f"  ·  queue  {queue.depth.visible:,} messages, {queue.held:,} in hand{strange}"

    def _stages(self) -> Text:
        if self._last is None:
            return Text("")
        last = self._last
        return Text(
            f"batch {last.batch}  photos {last.photos}  in {last.total_s:.2f} s"
            f"  ·  plan {last.plan_s:.2f}  work {last.work_s:.2f}  commit {last.commit_s:.2f}"
            f"\nin its tasks  ·  fetch {last.counters.fetch_s:.2f}  decode {last.counters.decode_s:.2f}"
            f"  infer {last.counters.infer_s:.2f}  write {last.counters.write_s:.2f}",
            style="dim",
        )


def _left(left: LeftBehind) -> str:
    more = left.files - len(left.keys)
    names = ", ".join(left.keys) + (f" and {more:,} more" if more else "")
    return f"Left for the next start, because {'it' if left.files == 1 else 'they'} kept changing: {names}"


def _figure(name: str, value: str) -> Text:
    return Text.assemble(f"{name} ", (value, "bold"))
