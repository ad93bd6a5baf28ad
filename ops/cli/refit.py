"""The command that fits the PCA."""

import math
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from features.errors import InvalidSetting
from ops.cli.command import HOME, Flags, takes_settings
from ops.cli.console import console, echo
from ops.cli.models import ThenReproject, echo_next, echo_variance
from ops.cli.reproject import project_rows
from ops.cli.spark_job import progress_bar, spark_job
from store.errors import VersionHeldBack

if TYPE_CHECKING:
    from batch.refit.refit import Refit
    from store.settings import Settings


@takes_settings(*HOME, "components", "variance", "min_rows", "min_label_rows", "master")
def refit(
    flags: Flags,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and show, but store nothing.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Read every row again, whatever is stored.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Make it the next version, even if it names worse.")] = False,
    featurizer: Annotated[
        str | None, typer.Option("--featurizer", metavar="ID", help="Fit on the rows of this featurizer.")
    ] = None,
    then_reproject: ThenReproject = False,
) -> None:
    """Fit the PCA and the names of fruit on all photos, and make them the next version; a running stream follows."""
    if dry_run and then_reproject:
        raise InvalidSetting("A dry run publishes nothing to reproject with; leave out --dry-run or --reproject.")
    fit(
        flags.open_to_change(),
        dry_run=dry_run,
        full=full,
        force=force,
        featurizer=featurizer,
        then_reproject=then_reproject,
    )


def fit(
    settings: "Settings",
    *,
    dry_run: bool = False,
    full: bool = False,
    force: bool = False,
    featurizer: str | None = None,
    then_reproject: bool = False,
) -> None:
    """Fit a new version in the settings' home, show the outcome and, if asked for, reproject all rows with it.

    Raises VersionHeldBack when it is published but names worse than another version.
    """
    from rich.progress import DownloadColumn

    from batch.refit.refit import RefitOptions, components_to_keep, network_to_fit
    from batch.refit.refit import refit as run_refit
    from store.models.pca_models import scree_uri

    home = settings.places()
    # Before Spark starts, which takes seconds.
    network = network_to_fit(home, featurizer)
    if network.newer is not None:
        echo(
            f"{network.newer}; run `fruits refeaturize`, and the next refit takes it. "
            f"This one fits {network.featurizer}."
        )
    components = components_to_keep(home, network.featurizer, settings.components, settings.variance)
    with spark_job(settings, "fruits-refit") as spark:
        with progress_bar("Reading features", DownloadColumn()) as on_progress:
            options = RefitOptions(
                components, settings.variance, settings.min_rows, settings.min_label_rows, force, network.featurizer
            )
            done = run_refit(spark, home, options, dry_run, full, on_progress)
        meta = done.meta
        table = Table(header_style="bold")
        for name in ("version", "rows", "components", "explained variance", "drift"):
            table.add_column(name, justify="right")
        version = f"{meta.version}" if done.published else f"{meta.version} (dry run)"
        drift = "the first of its featurizer"
        if meta.parent is not None:
            middle, most = (math.degrees(done.angles_rad[place]) for place in (len(done.angles_rad) // 2, -1))
            drift = f"{most:.2f}° at most, {middle:.2f}° in the middle, from version {meta.parent}"
        table.add_row(version, f"{meta.rows:,}", f"{meta.components}", f"{meta.explained:.2%}", drift)
        console.print(table)
        echo_variance(done.thresholds)
        echo(f"Read {done.rows_read:,} rows; the sums of {done.rows_stored:,} were stored before.")
        if done.rows_corrected:
            echo(f"{done.rows_corrected:,} rows count under another label than their folder's: people said so.")
        for sentence in (_names(done), *done.notes):
            echo(sentence)
        if not done.published:
            echo("A dry run: nothing was stored.")
            return
        echo(f"Scree plot: {scree_uri(home, meta.version)}")
        if meta.held_back is not None:
            raise VersionHeldBack(
                f"Version {meta.version} is published but is not the next one: {meta.held_back}. Look at `fruits query "
                f"suspects` for wrong labels; serve it with `fruits models use {meta.version}`, or refit with --force."
            )
        if done.next == meta.version:
            echo_next(meta.version)
            if then_reproject:
                project_rows(spark, home)
        else:
            echo(f"A newer version than {meta.version} was there first and stays.")


def _names(done: "Refit") -> str:
    meta = done.meta
    if not meta.labels:
        return f"The version names no fruit: {meta.no_names}"
    sure = "its confidences are calibrated" if meta.calibrated else "its confidences are uncalibrated"
    compared = f"; {done.comparison}" if done.comparison else ""
    return f"It names {meta.labels:,} labels; {sure}{compared}."
