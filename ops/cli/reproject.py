"""The command that projects all rows with the next PCA version."""

from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli.command import HOME, Flags, duration_of, takes_settings
from ops.cli.console import echo, notify
from ops.cli.spark_job import as_yarn_expects, progress_bar, spark_job
from ops.wording import quantity

if TYPE_CHECKING:
    from datetime import timedelta

    from store.home import Home
    from streaming.session import Spark

JOB = "fruits-reproject"


@takes_settings(*HOME, "master")
def reproject(
    flags: Flags,
    answers: Annotated[
        str | None,
        typer.Option(
            "--answers", metavar="DURATION", help="Then write the app's answers of the last days anew, like 7d."
        ),
    ] = None,
) -> None:
    """Project every row with the next PCA version, then serve that version."""
    kept = None if answers is None else duration_of("--answers", answers)
    from store.models.pca_models import current_models

    settings = flags.open_to_change()
    home = settings.places()
    if not current_models(home).versions:
        with as_yarn_expects(settings, JOB):
            echo("There is no version to project with; run `fruits refit` first.")
        return
    with spark_job(settings, JOB) as spark:
        project_rows(spark, home)
        if kept is not None:
            _answer_again(spark, home, kept)


def project_rows(spark: "Spark", home: "Home") -> None:
    """Reproject the home and say what was done."""
    from rich.progress import MofNCompleteColumn

    from batch.reproject import reproject as run_reproject

    with progress_bar("Projecting rows", MofNCompleteColumn()) as on_progress:
        done = run_reproject(spark, home, notify, on_progress)
    if done is not None:
        echo(f"Version {done.version} is served. Projected {done.rows:,} rows of {quantity(done.days, 'day')}.")


def _answer_again(spark: "Spark", home: "Home", age: "timedelta") -> None:
    from datetime import UTC, datetime

    from rich.progress import MofNCompleteColumn

    from batch.answers import answer_again

    since = (datetime.now(UTC) - age).date()
    with progress_bar("Writing answers", MofNCompleteColumn()) as on_progress:
        written = answer_again(spark, home, since, notify, on_progress)
    echo(f"Wrote {quantity(written, 'answer')} anew, to photos ingested since {since}.")
