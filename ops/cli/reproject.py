"""The command that projects all rows with the next PCA version."""

from typing import TYPE_CHECKING

from ops.cli.command import HOME, Flags, takes_settings
from ops.cli.console import echo, notify
from ops.cli.spark_job import as_yarn_expects, progress_bar, spark_job
from ops.wording import quantity

if TYPE_CHECKING:
    from store.home import Home
    from streaming.session import Spark

JOB = "fruits-reproject"


@takes_settings(*HOME, "master")
def reproject(flags: Flags) -> None:
    """Project every row with the next PCA version, then serve that version."""
    from store.models.pca_models import current_models

    settings = flags.open_to_change()
    home = settings.places()
    if not current_models(home).versions:
        with as_yarn_expects(settings, JOB):
            echo("There is no version to project with; run `fruits refit` first.")
        return
    with spark_job(settings, JOB) as spark:
        project_rows(spark, home)


def project_rows(spark: "Spark", home: "Home") -> None:
    """Reproject the home and say what was done."""
    from rich.progress import MofNCompleteColumn

    from batch.reproject import reproject as run_reproject

    with progress_bar("Projecting rows", MofNCompleteColumn()) as on_progress:
        done = run_reproject(spark, home, notify, on_progress)
    if done is not None:
        echo(f"Version {done.version} is served. Projected {done.rows:,} rows of {quantity(done.days, 'day')}.")
