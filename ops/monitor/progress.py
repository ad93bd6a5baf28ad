"""The panel of a running stream on a terminal."""

import threading
from collections.abc import Callable
from datetime import UTC, datetime

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from features.errors import FruitsError
from ops.monitor.run_stats import RunStats
from ops.wording import escape_controls, quantity
from store.home import Home
from store.models.pca_models import Current, current_models
from streaming.batches_in_flight import BatchInHand
from streaming.micro_batch import BatchReport
from streaming.planner import PlannerReport
from streaming.service import StreamListener

SERVED_POLL_S = 5.0
# The end does not wait longer for storage that hangs.
LAST_POLL_S = 2.0


class LivePanel:
    """One panel on a terminal that is redrawn four times a second; a line at its end says what was done."""

    def __init__(self, console: Console, title: str, home: Home) -> None:
        self._title = title
        self._home = home
        self._stats = RunStats()
        self._last: BatchReport | None = None
        self._served: Current | None = None
        self._in_hand: Callable[[], tuple[BatchInHand, ...]] = tuple
        self._news: PlannerReport | None = None
        self._closing = threading.Event()
        self._follower = threading.Thread()
        self._live = Live(console=console, refresh_per_second=4, get_renderable=self._render)

    @property
    def watcher(self) -> StreamListener:
        return StreamListener(self._on_batch, self._on_planner_report, self._stats.on_stage, self._on_start)

    def __enter__(self) -> "LivePanel":
        self._stats = RunStats()
        self._closing.clear()
        self._live.start()
        self._follower = threading.Thread(target=self._follow_served, name="served version", daemon=True)
        self._follower.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._follower.join(LAST_POLL_S)
        self._live.stop()
        for sentence in last_sentences(self._news, self._stats):
            self.warn(sentence)

    def warn(self, sentence: str) -> None:
        """Say something above the panel."""
        self._live.console.print(escape_controls(sentence), markup=False, highlight=False, soft_wrap=True)

    def _on_batch(self, report: BatchReport) -> None:
        self._stats.on_batch(report)
        self._last = report

    def _on_planner_report(self, news: PlannerReport) -> None:
        self._news = news

    def _on_start(self, in_hand: Callable[[], tuple[BatchInHand, ...]]) -> None:
        self._in_hand = in_hand

    def _follow_served(self) -> None:
        warning, is_last = "", False
        while not is_last:
            is_last = self._closing.is_set()
            try:
                self._served = current_models(self._home)
                warning = ""
            except FruitsError as error:
                self._served = None
                if str(error) != warning:
                    warning = str(error)
                    self.warn(f"The served PCA version cannot be read: {warning}")
            self._closing.wait(SERVED_POLL_S)

    def _render(self) -> Panel:
        totals, in_hand = self._stats.totals(), self._in_hand()
        figures = {
            "batches": f"{totals.batches:,}",
            "photos": f"{totals.photos:,}",
            "rejects": f"{totals.rejects.total():,}",
            "photos/s": self._pace(is_idle=not in_hand),
            "PCA": self._served_version(),
        }
        columns = [Text.assemble(f"{name} ", (value, "bold")) for name, value in figures.items()]
        lines: list[RenderableType] = [
            Columns(columns, padding=(0, 3)),
            Text(f"landing  {escape_controls(self._home.landing.uri)}", style="dim", overflow="fold"),
            *self._news_lines(),
            *map(_batch_in_hand, in_hand),
            *self._stages(),
        ]
        return Panel(Group(*lines), title=self._title, title_align="left")

    def _served_version(self) -> str:
        if self._served is None:
            return "unknown"
        serving, following = self._served.serving, self._served.next
        return ("none" if serving is None else f"v{serving}") + (f", next v{following}" if following else "")

    def _pace(self, is_idle: bool) -> str:
        pace = self._stats.photos_per_s
        # Between two batches of a backlog nothing is in hand for a moment.
        is_idle = is_idle and self._news is not None and not self._news.backlog.files
        return ", ".join([*([] if pace is None else [f"{pace:,.1f}"]), *(["idle"] if is_idle else [])]) or "–"

    def _news_lines(self) -> list[Text]:
        """The backlog, the queue, and what could not be cleared away."""
        if self._news is None:
            return [Text("starting Spark and listing the landing prefix", style="dim")]
        backlog, queue, uncleared = self._news.backlog, self._news.queue, self._news.uncleared
        waiting = "none"
        if backlog.oldest_arrived_at is not None:
            waited_s = (datetime.now(UTC) - backlog.oldest_arrived_at).total_seconds()
            more = " or more" if backlog.at_least else ""
            waiting = f"{backlog.files:,}{more} files  {backlog.bytes / 1e6:,.1f} MB  oldest {waited_s:,.0f} s"
        if queue is not None:
            unknown = f", {queue.unknown} of unknown shape" if queue.unknown else ""
            waiting += f"  ·  queue  {queue.depth.visible:,} messages, {queue.held:,} in hand{unknown}"
        lines = [Text(f"backlog  {waiting}", style="dim" if backlog.oldest_arrived_at is None else "")]
        if uncleared:
            lines.append(Text(f"{quantity(uncleared, 'photo')} could not be cleared away", style="yellow"))
        if self._news.to_copy:
            lines.append(Text(f"{quantity(self._news.to_copy, 'older photo')} to copy and delete", style="dim"))
        if uncopied := sum(self._news.uncopied.values()):
            lines.append(Text(f"{quantity(uncopied, 'older photo')} cannot be copied, and stay", style="yellow"))
        return lines

    def _stages(self) -> list[Text]:
        last = self._last
        if last is None:
            return []
        rejects = f"  rejects {sum(last.rejects.values())}" if last.rejects else ""
        clock = {"plan": last.plan_s, "work": last.work_s, "commit": last.commit_s}
        counters = last.counters
        tasks = {"fetch": counters.fetch_s, "decode": counters.decode_s, "infer": counters.infer_s}
        tasks["write"] = counters.write_s
        heads = (f"batch {last.batch}  photos {last.photos}{rejects}  in {last.total_s:.2f} s", "in its tasks")
        return [
            Text("  ·  ".join((head, "  ".join(f"{stage} {s:.2f}" for stage, s in stages.items()))), style="dim")
            for head, stages in zip(heads, (clock, tasks), strict=True)
        ]


def last_sentences(news: PlannerReport | None, stats: RunStats) -> list[str]:
    """What is said when a stream has ended: what a drain left, and what was done."""
    sentences = [stats.totals().sentence()]
    if news is not None and (left := news.unsettled) is not None:
        more = left.files - len(left.keys)
        names = ", ".join(left.keys) + (f" and {more:,} more" if more else "")
        pronoun = "it" if left.files == 1 else "they"
        sentences.insert(0, f"Left for the next start, because {pronoun} kept changing: {names}")
    return sentences


def _batch_in_hand(batch: BatchInHand) -> Table:
    # A file counts when its task has ended; nothing is estimated in between.
    progress = f"{batch.done:,} of {quantity(batch.objects, 'file')}, {batch.seconds:.0f} s"
    line = Table.grid(padding=(0, 2), expand=True)
    line.add_column(no_wrap=True)
    line.add_column(ratio=1)
    line.add_column(no_wrap=True)
    line.add_row(f"batch {batch.batch}", ProgressBar(total=max(batch.objects, 1), completed=batch.done), progress)
    return line
