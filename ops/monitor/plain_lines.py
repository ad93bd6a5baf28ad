"""The sentences of a running stream where no panel can be drawn: in a pipe, in a file."""

from rich.console import Console

from ops.monitor.progress import last_sentences
from ops.monitor.run_stats import RunStats
from ops.wording import escape_controls, quantity
from streaming.micro_batch import BatchReport
from streaming.planner import PlannerReport
from streaming.service import StreamListener


class PlainLines:
    """A sentence for the start, for each batch, and for what was done at the end."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stats = RunStats()
        self._news: PlannerReport | None = None

    @property
    def watcher(self) -> StreamListener:
        return StreamListener(self._on_batch, self._on_planner_report, self._stats.on_stage)

    def __enter__(self) -> "PlainLines":
        self._stats = RunStats()
        self._say("Starting the stream.")
        return self

    def __exit__(self, *_: object) -> None:
        for sentence in last_sentences(self._news, self._stats):
            self._say(sentence)

    def _on_planner_report(self, news: PlannerReport) -> None:
        if self._news is None:
            self._say("The stream is up.")
        self._news = news

    def _on_batch(self, report: BatchReport) -> None:
        self._stats.on_batch(report)
        rejects = sum(report.rejects.values())
        refused = f" and {quantity(rejects, 'reject')}" if rejects else ""
        self._say(f"Batch {report.batch}: {quantity(report.photos, 'photo')}{refused} in {report.total_s:.1f} s.")

    def _say(self, sentence: str) -> None:
        self._console.print(escape_controls(sentence), markup=False, highlight=False, soft_wrap=True)
