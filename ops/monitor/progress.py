"""What a person sees of a running stream."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from rich.columns import Columns
from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from features.errors import FruitsError
from ops.monitor.tally import Tally
from ops.wording import counted, visible
from store.home import Home
from store.models.pca_models import Current, current_models
from streaming.batches_in_flight import BatchInHand
from streaming.discovery.discovery import UnsettledFiles
from streaming.micro_batch import BatchReport
from streaming.planner import PlannerReport
from streaming.service import StreamListener

SERVED_LOOK_S = 5.0
# The end does not wait longer for storage that hangs.
LAST_LOOK_S = 2.0


class LivePanel:
    """One panel on a terminal that is redrawn four times a second; a line at its end says what was done."""

    def __init__(self, console: Console, title: str, home: Home) -> None:
        self._title = title
        self._home = home
        self._tally = Tally()
        self._last: BatchReport | None = None
        self._served: Current | None = None
        self._in_hand: Callable[[], tuple[BatchInHand, ...]] = tuple
        self._news: PlannerReport | None = None
        self._closing = threading.Event()
        self._follower = threading.Thread()
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)

    @property
    def watcher(self) -> StreamListener:
        return StreamListener(self._on_batch, self._on_planner_report, self._tally.on_stage, self._on_start)

    def __enter__(self) -> "LivePanel":
        self._tally = Tally()
        self._closing.clear()
        self._live.start()
        self._follower = threading.Thread(target=self._follow_served, name="served version", daemon=True)
        self._follower.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._follower.join(LAST_LOOK_S)
        self._live.stop()
        for sentence in last_sentences(self._news, self._tally):
            self.warn(sentence)

    def warn(self, sentence: str) -> None:
        """Say something above the panel."""
        self._live.console.print(visible(sentence), markup=False, highlight=False, soft_wrap=True)

    def _on_batch(self, report: BatchReport) -> None:
        self._tally.on_batch(report)
        self._last = report

    def _on_planner_report(self, news: PlannerReport) -> None:
        self._news = news

    def _on_start(self, in_hand: Callable[[], tuple[BatchInHand, ...]]) -> None:
        self._in_hand = in_hand

    def _follow_served(self) -> None:
        told, is_last = "", False
        while not is_last:
            is_last = self._closing.is_set()
            try:
                self._served = current_models(self._home)
                told = ""
            except FruitsError as error:
                self._served = None
                if str(error) != told:
                    told = str(error)
                    self.warn(f"The served PCA version cannot be read: {told}")
            self._closing.wait(SERVED_LOOK_S)

    def _render(self) -> Panel:
        totals, in_hand = self._tally.totals(), self._in_hand()
        figures = Columns(
            [
                _figure("batches", f"{totals.batches:,}"),
                _figure("photos", f"{totals.photos:,}"),
                _figure("rejects", f"{totals.rejects.total():,}"),
                _figure("photos/s", self._pace(in_hand)),
                _figure("PCA", self._served_version()),
            ],
            padding=(0, 3),
        )
        landing = Text(f"landing  {visible(self._home.landing.uri)}", style="dim", overflow="fold")
        return Panel(
            Group(
                figures, landing, self._backlog(), *self._uncleared(), *map(_batch_in_hand, in_hand), *self._stages()
            ),
            title=self._title,
            title_align="left",
        )

    def _served_version(self) -> str:
        if self._served is None:
            return "unknown"
        serving, following = self._served.serving, self._served.next
        return ("none" if serving is None else f"v{serving}") + (f", next v{following}" if following else "")

    def _pace(self, in_hand: tuple[BatchInHand, ...]) -> str:
        pace = self._tally.photos_per_s
        # Between two batches of a backlog nothing is in hand for a moment.
        is_idle = self._news is not None and not in_hand and not self._news.backlog.files
        return ", ".join([*([] if pace is None else [f"{pace:,.1f}"]), *(["idle"] if is_idle else [])]) or "–"

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

    def _stages(self) -> list[Text]:
        if self._last is None:
            return []
        last = self._last
        rejects = sum(last.rejects.values())
        clock = (
            f"batch {last.batch}  photos {last.photos}{f'  rejects {rejects}' if rejects else ''}"
            f"  in {last.total_s:.2f} s"
            f"  ·  plan {last.plan_s:.2f}  work {last.work_s:.2f}  commit {last.commit_s:.2f}"
        )
        tasks = (
            f"in its tasks  ·  fetch {last.counters.fetch_s:.2f}  decode {last.counters.decode_s:.2f}"
            f"  infer {last.counters.infer_s:.2f}  write {last.counters.write_s:.2f}"
        )
        return [Text(clock, style="dim"), Text(tasks, style="dim")]


def last_sentences(news: PlannerReport | None, tally: Tally) -> list[str]:
    """What is said when a stream has ended: what a drain left, and what was done."""
    left = [_left(news.unsettled)] if news is not None and news.unsettled is not None else []
    return [*left, tally.totals().sentence()]


def _left(left: UnsettledFiles) -> str:
    more = left.files - len(left.keys)
    names = ", ".join(left.keys) + (f" and {more:,} more" if more else "")
    return f"Left for the next start, because {'it' if left.files == 1 else 'they'} kept changing: {names}"


def _batch_in_hand(batch: BatchInHand) -> Table:
    # A task tells what it did when it ends; that counts, and nothing is estimated in between.
    told = f"{batch.done:,} of {counted(batch.objects, 'file')}, {batch.seconds:.0f} s"
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    line.add_row(f"batch {batch.batch}", ProgressBar(total=max(batch.objects, 1), completed=batch.done), told)
    return line


def _figure(name: str, value: str) -> Text:
    return Text.assemble(f"{name} ", (value, "bold"))
