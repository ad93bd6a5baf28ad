"""The command that gives photos features of another network."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli.command import HOME, Flags, takes_settings
from ops.cli.console import echo, messages, notify
from ops.cli.spark_job import as_yarn_expects, progress_bar, spark_job
from ops.wording import duration, quantity

if TYPE_CHECKING:
    from batch.refeaturize.outlook import Outlook
    from batch.refeaturize.refeaturize import Refeaturization
    from store.home import Home

JOB = "fruits-refeaturize"
# A log of a run of days tells how far it is this often.
_TOLD_EVERY_S = 60.0


@takes_settings(
    *(*HOME, "landing", "archive", "max_image_bytes", "max_pixels", "max_decode_time"), *("storage_patience", "master")
)
def refeaturize(
    flags: Flags,
    newest_first: Annotated[bool, typer.Option("--newest-first/--oldest-first", help="Which days come first.")] = True,
    share: Annotated[
        float, typer.Option("--share", min=0.01, max=1.0, help="At how many of the cores: 0.5 is half of them.")
    ] = 0.5,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what there is to do, and from where.")] = False,
) -> None:
    """Give every photo features of the networks in use, from its copy or its original, while the stream goes on."""
    settings = flags.open_to_change()
    home = settings.places()
    from batch.refeaturize.outlook import outlooks
    from store.tables.handles import check_ingested

    # Before a Spark is started for nothing.
    found = outlooks(home)
    if dry_run or not any(outlook.photos for outlook in found):
        with as_yarn_expects(settings, JOB):
            check_ingested(home)
            for outlook in found:
                echo(f"Featurizer {outlook.featurizer}: {_todo(outlook)}")
        return
    from batch.refeaturize.refeaturize import RefeaturizeOptions, slots_of
    from batch.refeaturize.refeaturize import refeaturize as run_refeaturize

    with spark_job(settings, JOB) as spark, _progress() as on_progress:
        tasks = quantity(slots_of(spark, share), "task")
        notify(f"{tasks} at a time, on {quantity(spark.defaultParallelism, 'core')}.")
        options = RefeaturizeOptions(settings.limits, newest_first, share)
        for done in run_refeaturize(spark, home, options, notify, on_progress):
            if done.rows or done.lost:
                _tell(home, done)


def _todo(outlook: "Outlook") -> str:
    if not outlook.photos:
        return "no photo lacks it."
    lacking = f"{quantity(outlook.photos, 'photo')} of {quantity(outlook.days, 'day')} lack it"
    others = outlook.photos - outlook.copies
    sentences = [f"{lacking}; {outlook.copies:,} have a copy."]
    if others:
        looked_at = sum(outlook.places.values())
        where = ", ".join(f"{count:,} {_WHERE[place]}" for place, count in sorted(outlook.places.items()))
        sentences.append(f"Of {others:,} without one, {looked_at:,} were looked up: {where}.")
    return " ".join(sentences)


_WHERE = {
    "landing": "in the landing",
    "archive": "in the archive",
    "replaced": "replaced by another version",
    "gone": "gone",
    "unknown": "unknown",
}


def _tell(home: "Home", done: "Refeaturization") -> None:
    from batch.refeaturize.report import report_uri
    from store.models.pca_models import versions_to_project

    places = ", ".join(f"{count:,} from {_FROM[place]}" for place, count in sorted(done.places.items()))
    made = f"{quantity(done.rows, 'photo')} of {quantity(done.days, 'day')} got features"
    echo(f"Featurizer {done.featurizer}: {made}{f' ({places})' if places else ''}.")
    if done.rows:
        is_known = versions_to_project(home, [done.featurizer])
        echo(f"Next: fruits {'reproject' if is_known else 'refit --reproject'}")
    if done.lost:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(done.lost.items()))
        photos, report = quantity(sum(done.lost.values()), "photo"), report_uri(home, done.featurizer)
        echo(f"{photos} cannot be had ({reasons}); {report} counts them by day. The next run looks for them again.")


_FROM = {"copy": "copies", "archive": "the archive", "landing": "the landing"}


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal, and a line each minute elsewhere; both estimate when it is done."""
    from rich.progress import MofNCompleteColumn, TimeRemainingColumn

    began_s, told_s, first = time.monotonic(), time.monotonic(), None
    with progress_bar("Making features", MofNCompleteColumn(), TimeRemainingColumn()) as on_bar:

        def on_progress(done: int, total: int) -> None:
            nonlocal told_s, first, began_s
            on_bar(done, total)
            if first is None or done == 0:
                first, began_s = done, time.monotonic()
            now_s = time.monotonic()
            if not messages.is_terminal and done > first and now_s - told_s >= _TOLD_EVERY_S:
                told_s = now_s
                pace = (done - first) / (now_s - began_s)
                left = duration(timedelta(seconds=(total - done) / pace))
                notify(f"{done:,} of {total:,} photos, {pace:,.0f} a second, about {left} left.")

        yield on_progress
