"""The tour: photos dropped while the stream runs, a refit that it follows, and queries at the end."""

import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import islice
from pathlib import Path

from rich.console import Console

from features.environment import python_environment
from features.errors import FruitsError, InvalidSetting
from ops.cli.console import notify
from ops.cli.process.interrupts import finish_at_interrupt, raise_if_interrupted
from ops.demo.photos import DemoFile, demo_files
from ops.monitor.plain_lines import PlainLines
from ops.monitor.progress import LivePanel
from ops.query.query import connect, run_query
from store.models.pca_models import current_models, describe_model
from store.settings import Settings
from streaming.planner import PlannerReport
from streaming.service import claim_home, run_stream

MOST_COMPONENTS = 16
# A demo has some seven photos of a kind.
MIN_LABEL_ROWS = 3


class DemoFailed(FruitsError):
    """A command of the tour failed."""


def check_landing(settings: Settings) -> None:
    """Raises InvalidSetting when the landing is not on this machine's disk, where the demo drops its photos."""
    if not settings.locations().landing.is_local:
        raise InvalidSetting("The demo drops photos on this machine's disk; use a local landing.")


def run_demo(
    settings: Settings, count: int, stop: threading.Event, progress: LivePanel | PlainLines, console: Console
) -> None:
    """Drop `count` drawn photos while the stream runs, refit, drop more, reproject, query the tables, make the page.

    Some later photos are identified, the photo in a wrong folder is looked for.

    A second run drops only the files that are not there yet, so nothing is doubled; it refits again.
    Raises DemoFailed if a command fails, AnotherStreamRunning if a stream runs on the home.
    """
    # Its files come by a rename, so that a broken one need not be waited for; their first folder is the label.
    settings = settings.model_copy(update={"settle": timedelta(0), "layout": None, "key_pattern": None})
    tour = _Tour(settings, count, console)
    with claim_home(settings, stop, notify) as heart:
        if heart is None:
            return
        with progress:
            inner = progress.watcher

            def on_planner_report(news: PlannerReport) -> None:
                inner.on_planner_report(news)
                tour.on_planner_report(news)
                if tour.is_over.is_set():
                    stop.set()

            watcher = replace(inner, on_planner_report=on_planner_report)
            run_stream(settings, False, stop, watcher, heart, partial(finish_at_interrupt, stop))
    raise_if_interrupted()
    if tour.failure is not None:
        raise tour.failure
    if not tour.is_over.is_set():
        return
    _show_names(settings, console, tour.dropped)
    for title, sql in _QUESTIONS.items():
        console.print(f"[bold]{title}[/bold]")
        run_command(settings, console, "query", sql)
    console.print("[bold]All of it on one page: open this in a browser[/bold]")
    run_command(settings, console, "report", "--thumbnails")


class _Tour:
    """What a user would do beside the running stream, in a thread of its own that starts with the first report."""

    def __init__(self, settings: Settings, count: int, console: Console) -> None:
        self._settings = settings
        self._count = count
        self._console = console
        self._thread = threading.Thread(target=self._take, name="tour", daemon=True)
        self._caught_up = threading.Condition()
        self._caught_up_to: datetime | None = None
        self.dropped: list[DemoFile] = []
        self.failure: Exception | None = None
        self.is_over = threading.Event()

    def on_planner_report(self, news: PlannerReport) -> None:
        with self._caught_up:
            self._caught_up_to = news.caught_up_to
            self._caught_up.notify_all()
        if self._thread.ident is None:
            self._thread.start()

    def _take(self) -> None:
        try:
            files, later = demo_files(self._count), self._count // 5
            self._drop(islice(files, self._count - later))
            # A fit needs more rows than components, and a small demo has few photos.
            photos = run_query(connect(self._settings.places()), "SELECT 1 FROM photos").num_rows
            components = f"{max(1, min(MOST_COMPONENTS, photos - 1))}"
            few = ("--min-rows", "2", "--min-label-rows", f"{MIN_LABEL_ROWS}")
            self._run("refit", "--components", components, *few)
            self._drop(files)
            self._run("query", _FOLLOWED)
            self._run("reproject")
            self._run("models")
        except Exception as error:
            self.failure = error
        self.is_over.set()

    def _drop(self, files: Iterable[DemoFile]) -> None:
        # Drawing them takes a while, so they arrive one by one.
        landing = self._settings.places().landing.directory
        dropped = [self._drop_one(landing, file) for file in files]
        self._console.print(f"\nDropped {sum(dropped)} files; {dropped.count(False)} were there already.\n")
        done_at = datetime.now(UTC)
        with self._caught_up:
            self._caught_up.wait_for(lambda: self._caught_up_to is not None and self._caught_up_to > done_at)

    def _drop_one(self, landing: Path, file: DemoFile) -> bool:
        self.dropped.append(replace(file, body=b""))
        return _drop(landing, file)

    def _run(self, *arguments: str) -> None:
        run_command(self._settings, self._console, *arguments)


def _show_names(settings: Settings, console: Console, dropped: list[DemoFile]) -> None:
    """What the served version says of photos that came after its fit, and which label it doubts most."""
    home = settings.places()
    serving = current_models(home).serving
    if serving is None or not describe_model(home, serving).labels:
        console.print("It names no fruit. So few photos have too few of each kind; 80 would do.\n")
        return
    fresh = [file for file in dropped[len(dropped) - len(dropped) // 5 :] if file.shows]
    known = [file for file in fresh if file.shows == file.label][:1]
    strange = [file for file in fresh if file.label is None]
    if known and strange:
        console.print(
            f"[bold]What fruit is it? A photo of a {known[0].shows} that came after the fit, and one of a "
            f"{strange[0].shows}[/bold]"
        )
        paths = [f"{home.landing.directory / file.key}" for file in (*known, *strange)]
        run_command(settings, console, "identify", *paths)
        console.print(
            "The novelty tells what the name cannot: the share of known photos that were less strange. All photos are "
            "of one day, so that nothing came later to calibrate the confidence on.\n"
        )
    wrong = [file for file in dropped if file.shows and file.label and file.shows != file.label]
    if wrong:
        console.print(f"[bold]Which label is wrong? {wrong[0].key} shows a {wrong[0].shows}[/bold]")
        run_command(settings, console, "query", "suspects", "--limit", "3")
        file = home.landing.directory / wrong[0].key
        console.print(
            f"To put it right: fruits label {file} {wrong[0].shows} --home {settings.home}\n"
            "The next refit learns it.\n",
            highlight=False,
            soft_wrap=True,
        )


def run_command(settings: Settings, console: Console, *arguments: str) -> None:
    """Run what a person would type, and show it with its answer. Raises DemoFailed with the command's last words."""
    shown = " ".join(f'"{argument}"' if " " in argument else argument for argument in arguments)
    console.print(f"[dim]fruits {shown}[/dim]", highlight=False, soft_wrap=True)
    command = [sys.executable, "-m", "fruits_launcher", *arguments, "--home", settings.home]
    environment = {**python_environment(), "FRUITS_MASTER": settings.master}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise DemoFailed(f"`fruits {arguments[0]}` failed: {done.stderr.strip()}")
    console.print(done.stdout, markup=False, highlight=False, soft_wrap=True)


def _drop(landing: Path, file: DemoFile) -> bool:
    target = landing / file.key
    if target.exists():
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    unfinished = target.with_name(f".{target.name}.part")
    unfinished.write_bytes(file.body)
    unfinished.replace(target)
    return True


_FOLLOWED = (
    "SELECT pca_version, count(*) AS photos, min(batch) AS first_batch, max(batch) AS last_batch FROM projections "
    "GROUP BY pca_version ORDER BY pca_version"
)
_QUESTIONS = {
    "Photos per label": (
        "SELECT label, count(*) AS photos, round(avg(width * height) / 1e6, 1) AS megapixels, "
        "count(DISTINCT format) AS formats FROM photos GROUP BY label ORDER BY label"
    ),
    "Rejects by reason": (
        "SELECT reason, count(*) AS files, min(detail) AS example FROM rejects GROUP BY reason ORDER BY reason"
    ),
    "Nearest neighbours of one photo": (
        "WITH one AS (SELECT image_id, label, features FROM photos ORDER BY image_id LIMIT 1) "
        "SELECT one.label AS photo, f.label AS neighbour, "
        "round(list_cosine_similarity(one.features, f.features), 4) AS cosine, split_part(f.source, '/landing/', 2) "
        "AS file FROM one, photos f WHERE f.image_id <> one.image_id ORDER BY cosine DESC LIMIT 5"
    ),
    "The same in PCA space: the directions in which these photos differ most": (
        "WITH one AS (SELECT image_id, label, pca FROM current_projections ORDER BY image_id LIMIT 1) "
        "SELECT one.label AS photo, p.label AS neighbour, "
        "round(list_distance(one.pca, p.pca), 3) AS distance, split_part(p.source, '/landing/', 2) "
        "AS file FROM one, current_projections p WHERE p.image_id <> one.image_id ORDER BY distance LIMIT 5"
    ),
}
