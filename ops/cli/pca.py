"""The commands around the PCA: refit, reproject, models."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from features.errors import InvalidSetting
from ops.cli.maintain import as_yarn_expects
from ops.cli.options import (
    AllowRegion,
    Debug,
    Endpoint,
    HomeUri,
    Master,
    ReadingPatience,
    Region,
    checked_settings,
    console,
    messages,
    say,
    settings_to_read,
)

if TYPE_CHECKING:
    from rich.progress import ProgressColumn

    from batch.refit.refit import Refit
    from batch.refit.scree import VarianceThresholds
    from store.home import Home
    from store.models.pca_models import Current, PcaMeta
    from store.settings import Settings
    from streaming.session import Spark

models_app = typer.Typer(help="List, show, use and prune the PCA models.", invoke_without_command=True)

USUAL_COMPONENTS = 64

Components = Annotated[
    int | None, typer.Option("--components", help=f"How many to keep; {USUAL_COMPONENTS} unless --variance is given.")
]
Variance = Annotated[
    float | None, typer.Option("--variance", help="Keep as few as explain this share of the variance, like 0.9.")
]
MinRows = Annotated[int | None, typer.Option("--min-rows", help="Refuse to fit on fewer rows; default: 1000.")]
ThenReproject = Annotated[bool, typer.Option("--reproject", help="Then run `fruits reproject`.")]


def refit(
    components: Components = None,
    variance: Variance = None,
    min_rows: MinRows = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Fit and show, but store nothing.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Read every row again, whatever is stored.")] = False,
    then_reproject: ThenReproject = False,
    home: HomeUri = None,
    master: Master = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Fit the PCA on all features and make it the next version; a running stream follows."""
    if dry_run and then_reproject:
        raise InvalidSetting("A dry run publishes nothing to reproject with; leave out --dry-run or --reproject.")
    from rich.progress import DownloadColumn

    from batch.refit.refit import RefitOptions
    from batch.refit.refit import refit as run_refit

    settings = checked_settings(
        components=components,
        variance=variance,
        min_rows=min_rows,
        home=home,
        master=master,
        s3_endpoint=s3_endpoint,
        s3_region=s3_region,
        allow_region=allow_region,
    )
    places = settings.places()
    kept = settings.components or (None if settings.variance else USUAL_COMPONENTS)
    wanted = RefitOptions(kept, settings.variance, settings.min_rows)
    with _spark(settings, "fruits-refit") as spark:
        with _progress("Reading features", DownloadColumn()) as on_progress:
            done = run_refit(spark, places, wanted, dry_run, full, on_progress)
        _show_refit(places, done)
        if then_reproject and done.next == done.meta.version:
            _reproject(spark, places)


def reproject(
    home: HomeUri = None,
    master: Master = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Project every row with the next PCA version, then serve that version."""
    from store.models.pca_models import current_models

    settings = checked_settings(
        home=home, master=master, s3_endpoint=s3_endpoint, s3_region=s3_region, allow_region=allow_region
    )
    places = settings.places()
    if not current_models(places).versions:
        with as_yarn_expects(settings, "fruits-reproject"):
            console.print("There is no version to project with; run `fruits refit` first.")
        return
    with _spark(settings, "fruits-reproject") as spark:
        _reproject(spark, places)


@models_app.callback()
def list_models(
    context: typer.Context,
    home: HomeUri = None,
    reading_patience: ReadingPatience = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """List, show, use and prune the PCA models; without a command: list."""
    command = context.invoked_subcommand
    if command is not None:
        if (home, reading_patience, s3_endpoint, s3_region, allow_region) != (None,) * 5:
            raise InvalidSetting(f"Write --home and the like after `{command}`: fruits models {command} … --home URI.")
    else:
        _list(
            settings_to_read(
                home=home,
                reading_patience=reading_patience,
                s3_endpoint=s3_endpoint,
                s3_region=s3_region,
                allow_region=allow_region,
            ).places()
        )


@models_app.command("list")
def list_command(
    home: HomeUri = None,
    reading_patience: ReadingPatience = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """List all versions, and which one is served."""
    _list(
        settings_to_read(
            home=home,
            reading_patience=reading_patience,
            s3_endpoint=s3_endpoint,
            s3_region=s3_region,
            allow_region=allow_region,
        ).places()
    )


@models_app.command(epilog="Example:  [bold]fruits models show 7[/]")
def show(
    version: Annotated[int, typer.Argument(help="A version that `fruits models` lists.")],
    home: HomeUri = None,
    reading_patience: ReadingPatience = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Show what is known of one version, and where its scree plot is."""
    from batch.refit.refit import scree_plot
    from batch.refit.scree import variance_thresholds
    from store.models.pca_models import current_models, has_scree, load_model, scree_uri, write_copies

    places = settings_to_read(
        home=home,
        reading_patience=reading_patience,
        s3_endpoint=s3_endpoint,
        s3_region=s3_region,
        allow_region=allow_region,
    ).places()
    model = load_model(places, version)
    if not has_scree(places, version):
        # A refit that was killed has not come to it.
        write_copies(places, model.meta, scree_plot(model))
    found = variance_thresholds(model.pca.explained_variance_ratio)
    console.print(_table([model.meta], current_models(places), _rows(places)))
    _say_thresholds(found)
    console.print(f"Scree plot: {scree_uri(places, version)}", highlight=False, soft_wrap=True)


@models_app.command(epilog="Examples:  [bold]fruits models use 6[/]  ·  [bold]fruits models use 6 --reproject[/]")
def use(
    version: Annotated[int, typer.Argument(help="A version that `fruits models` lists, older or newer.")],
    then_reproject: ThenReproject = False,
    home: HomeUri = None,
    master: Master = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Make a version the next one: new photos get it at once, `fruits reproject` completes and serves it."""
    from store.errors import UnknownModel
    from store.models.pca_models import begin_switch, current_models, describe_model
    from store.models.registry import current_featurizer

    settings = checked_settings(
        home=home, master=master, s3_endpoint=s3_endpoint, s3_region=s3_region, allow_region=allow_region
    )
    places = settings.places()
    meta, featurizer = describe_model(places, version), current_featurizer(places)
    if meta.featurizer != featurizer:
        raise UnknownModel(
            f"Version {version} is for featurizer {meta.featurizer}, but {places.root.uri} uses {featurizer}; "
            "choose another version, or refit."
        )
    storage_error = current_models(places).next
    after = begin_switch(places, version)
    if storage_error not in (None, version):
        console.print(f"The switch to version {storage_error} is given up.", highlight=False)
    if after.next is None:
        console.print(f"Version {version} is served; no other is on its way.", highlight=False)
        return
    _say_next(version)
    if then_reproject:
        with _spark(settings, "fruits-reproject") as spark:
            _reproject(spark, places)


@models_app.command(epilog="Example:  [bold]fruits models prune --keep 2[/]")
def prune(
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many of the newest versions keep projections.")] = 2,
    home: HomeUri = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Drop the projections of old versions; the served and the next one stay, and all models do."""
    from batch.maintain.prune import prune as run_prune

    places = checked_settings(
        home=home, s3_endpoint=s3_endpoint, s3_region=s3_region, allow_region=allow_region
    ).places()
    pruned = run_prune(places, keep, say)
    if pruned.versions:
        dropped = ", ".join(map(str, pruned.versions))
        console.print(f"Dropped {pruned.rows:,} projections of version {dropped}.", highlight=False)
    else:
        console.print("Nothing to drop.")


def _reproject(spark: "Spark", home: "Home") -> None:
    from rich.progress import MofNCompleteColumn

    from batch.reproject import reproject as run_reproject

    with _progress("Projecting rows", MofNCompleteColumn()) as on_progress:
        done = run_reproject(spark, home, say, on_progress)
    if done is None:
        return
    console.print(
        f"Version {done.version} is served. Projected {done.rows:,} rows of {_counted(done.days, 'day')}.",
        highlight=False,
    )


@contextmanager
def _spark(settings: "Settings", name: str) -> Iterator["Spark"]:
    from bootstrap.java import use_java
    from streaming.session import spark_session

    use_java()
    with spark_session(settings.master, name) as (session, _):
        yield session.sparkContext


@contextmanager
def _progress(what: str, amount: "ProgressColumn") -> Iterator[Callable[[int, int], None]]:
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = TextColumn("{task.description}"), BarColumn(), amount, TimeElapsedColumn()
    with Progress(*columns, console=messages, transient=True, disable=not messages.is_terminal) as progress:
        bar = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(bar, completed=done, total=total)


def _show_refit(home: "Home", done: "Refit") -> None:
    from store.models.pca_models import scree_uri

    meta, found = done.meta, done.thresholds
    shown = Table(header_style="bold")
    for name in ("version", "rows", "components", "explained variance", "drift"):
        shown.add_column(name, justify="right")
    shown.add_row(
        f"{meta.version}" if done.published else f"{meta.version} (dry run)",
        f"{meta.rows:,}",
        f"{meta.components}",
        f"{meta.explained:.2%}",
        _drift(meta, done.angles_rad),
    )
    console.print(shown)
    _say_thresholds(found)
    console.print(
        f"Read {done.rows_read:,} rows; the moments of {done.rows_stored:,} were stored before.", highlight=False
    )
    if done.published:
        console.print(f"Scree plot: {scree_uri(home, meta.version)}", highlight=False, soft_wrap=True)
        if done.next == meta.version:
            _say_next(meta.version)
        else:
            console.print(f"A newer version than {meta.version} was there first and stays.", highlight=False)
    else:
        console.print("A dry run: nothing was stored.")


def _say_thresholds(found: "VarianceThresholds") -> None:
    console.print(
        f"80, 90 and 95 % of the variance take {found.at_80}, {found.at_90} and {found.at_95} components; "
        f"{found.above_mean} explain more than the average one.",
        highlight=False,
    )


def _drift(meta: "PcaMeta", angles_rad: tuple[float, ...]) -> str:
    if meta.parent is None:
        return "the first of its featurizer"
    middle = math.degrees(angles_rad[len(angles_rad) // 2])
    return f"{math.degrees(angles_rad[-1]):.2f}° at most, {middle:.2f}° in the middle, from version {meta.parent}"


def _say_next(version: int) -> None:
    console.print(
        f"Version {version} is the next one: new photos get it at once, "
        "`fruits reproject` gives it to all rows and serves it.",
        highlight=False,
        soft_wrap=True,
    )


def _list(home: "Home") -> None:
    from store.models.pca_models import current_models, describe_model, versions

    there = versions(home)
    if not there:
        console.print(f"{home.root.uri} has no PCA model yet; run `fruits refit`.", highlight=False, soft_wrap=True)
        return
    console.print(_table([describe_model(home, version) for version in there], current_models(home), _rows(home)))


def _rows(home: "Home") -> dict[int, int]:
    from batch.maintain.prune import projected_rows

    return projected_rows(home)


def _table(metas: list["PcaMeta"], current: "Current", projected: dict[int, int]) -> Table:
    shown = Table(header_style="bold")
    for name in (
        "version",
        "",
        "fitted at (UTC)",
        "rows",
        "components",
        "explained",
        "drift",
        "featurizer",
        "projections",
    ):
        shown.add_column(name, justify="left" if name in ("", "featurizer") else "right")
    for meta in metas:
        role = {current.serving: "served", current.next: "next"}.get(meta.version, "")
        shown.add_row(
            f"{meta.version}",
            role,
            f"{meta.fitted_at:%Y-%m-%d %H:%M}",
            f"{meta.rows:,}",
            f"{meta.components}",
            f"{meta.explained:.2%}",
            "" if meta.drift_rad is None else f"{math.degrees(meta.drift_rad):.2f}° from {meta.parent}",
            meta.featurizer,
            f"{projected.get(meta.version, 0):,}",
        )
    return shown


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
