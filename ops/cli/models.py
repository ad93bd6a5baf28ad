"""The commands that list, show, compare, use and prune the PCA models."""

import math
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ops.cli.command import HOME, READING, Flags, examples, runs_alone, takes_settings
from ops.cli.console import console, echo, notify
from ops.cli.reproject import JOB, project_rows
from ops.cli.spark_job import spark_job
from ops.wording import quantity

if TYPE_CHECKING:
    from collections.abc import Callable

    from batch.refit.scree import VarianceThresholds
    from features.classifier import Classifier
    from ops.version_comparison import VersionComparison
    from store.home import Home
    from store.models.pca_models import PcaMeta, PcaModel

app = typer.Typer(help="List, show, compare, use and prune the PCA models.", invoke_without_command=True)

ThenReproject = Annotated[bool, typer.Option("--reproject", help="Then run `fruits reproject`.")]
_COLUMNS = (
    *("version", "", "fitted at (UTC)", "rows", "components", "explained", "drift"),
    *("labels", "accuracy", "featurizer", "projections"),
)
_LEFT = ("", "labels", "featurizer")


@app.callback()
@takes_settings(*READING)
def models(flags: Flags, context: typer.Context) -> None:
    """List, show, compare, use and prune the PCA models; without a command: list."""
    if runs_alone(flags, context):
        _list(flags)


@app.command("list")
@takes_settings(*READING)
def list_models(flags: Flags) -> None:
    """List all versions, and which one is served."""
    _list(flags)


@app.command(epilog=examples("fruits models show 7"))
@takes_settings(*READING)
def show(flags: Flags, version: Annotated[int, typer.Argument(help="A version that `fruits models` lists.")]) -> None:
    """Show what is known of one version, and where its scree plot is."""
    from batch.refit.refit import scree_plot
    from batch.refit.scree import variance_thresholds
    from ops.status.answers import recent_answers
    from store.models.pca_models import has_scree, load_model, scree_uri, write_copies

    home = flags.open_to_read().places()
    model = load_model(home, version)
    if not has_scree(home, version):
        # A refit that was killed did not come to it.
        write_copies(home, model.meta, scree_plot(model))
    thresholds = variance_thresholds(model.pca.explained_variance_ratio)
    console.print(_table(home, [model.meta]))
    echo_variance(thresholds)
    echo(_names_sentence(model))
    accuracy = recent_answers(home).accuracy_of(version)
    if accuracy.of:
        echo(f"Its answers of the last 28 days: {accuracy} right.")
    if model.meta.held_back is not None:
        echo(f"It was held back: {model.meta.held_back}.")
    echo(f"Scree plot: {scree_uri(home, version)}")


@app.command(epilog=examples("fruits models compare 6 7"))
@takes_settings(*READING)
def compare(
    flags: Flags,
    first: Annotated[int, typer.Argument(help="A version that `fruits models` lists.")],
    second: Annotated[int, typer.Argument(help="Another one.")],
) -> None:
    """Put two versions side by side: their fits, their subspaces, and how they name the same photos."""
    from ops.version_comparison import compare_versions

    _echo_comparison(compare_versions(flags.open_to_read().places(), first, second))


@app.command(epilog=examples("fruits models use 6", "fruits models use 6 --reproject"))
@takes_settings(*HOME, "master")
def use(
    flags: Flags,
    version: Annotated[int, typer.Argument(help="A version that `fruits models` lists, older or newer.")],
    then_reproject: ThenReproject = False,
) -> None:
    """Make a version the next one: new photos get it at once, `fruits reproject` completes and serves it."""
    from store.models.pca_models import begin_switch, current_models, describe_model
    from store.tables.photo_counts import photos_of_network

    settings = flags.open_to_change()
    home = settings.places()
    meta = describe_model(home, version)
    replaced = current_models(home).next
    after = begin_switch(home, version)
    if replaced not in (None, version):
        echo(f"The switch to version {replaced} is given up.")
    if after.next is None:
        echo(f"Version {version} is served; no other is on its way.")
        return
    echo_next(version)
    if meta.featurizer != after.featurizer:
        network = photos_of_network(home, meta.featurizer)
        echo(f"It is of another network than what is served. {network}.")
        if network.lacking:
            echo("Run `fruits refeaturize` before `fruits reproject`; new photos get rows of both.")
    if then_reproject:
        with spark_job(settings, JOB) as spark:
            project_rows(spark, home)


@app.command(epilog=examples("fruits models prune --keep 2", "fruits models prune --features"))
@takes_settings(*HOME)
def prune(
    flags: Flags,
    keep: Annotated[int, typer.Option("--keep", min=1, help="How many of the newest versions keep projections.")] = 2,
    features: Annotated[
        bool, typer.Option("--features", help="Also drop the feature rows of networks that are not in use.")
    ] = False,
) -> None:
    """Drop the projections of old versions; the served and the next one stay, and all models do."""
    from batch.maintain.networks_out_of_use import prune_features
    from batch.maintain.prune import prune as run_prune

    home = flags.open_to_change().places()
    pruned = run_prune(home, keep, notify)
    if pruned.versions:
        echo(f"Dropped {pruned.rows:,} projections of version {', '.join(map(str, pruned.versions))}.")
    rows = prune_features(home, notify) if features else None
    for featurizer, count in rows.dropped.items() if rows else ():
        echo(f"Dropped {quantity(count, 'feature row')} of featurizer {featurizer}.")
    for featurizer, count in rows.kept.items() if rows else ():
        echo(f"{quantity(count, 'row')} of featurizer {featurizer} stay: their photos have no other.")
    if not pruned.versions and not (rows and rows.dropped):
        echo("Nothing to drop.")


def echo_variance(thresholds: "VarianceThresholds") -> None:
    """Say how many components explain how much."""
    echo(
        f"80, 90 and 95 % of the variance take {thresholds.at_80}, {thresholds.at_90} and {thresholds.at_95} "
        f"components; {thresholds.above_mean} explain more than the average one."
    )


def echo_next(version: int) -> None:
    """Say what it means that a version is the next one."""
    echo(
        f"Version {version} is the next one: new photos get it at once, "
        "`fruits reproject` gives it to all rows and serves it."
    )


def _list(flags: Flags) -> None:
    from store.models.pca_models import describe_model, versions

    home = flags.open_to_read().places()
    if numbers := versions(home):
        console.print(_table(home, [describe_model(home, version) for version in numbers]))
    else:
        echo(f"{home.root.uri} has no PCA model yet; run `fruits refit`.")


def _table(home: "Home", metas: list["PcaMeta"]) -> Table:
    from batch.maintain.prune import projected_rows
    from ops.status.answers import recent_answers
    from store.models.pca_models import current_models

    current, projections, answers = current_models(home), projected_rows(home), recent_answers(home)
    table = Table(header_style="bold")
    for name in _COLUMNS:
        table.add_column(name, justify="left" if name in _LEFT else "right")
    for meta in metas:
        table.add_row(
            f"{meta.version}",
            {current.serving: "served", current.next: "next"}.get(meta.version, "held back" if meta.held_back else ""),
            f"{meta.fitted_at:%Y-%m-%d %H:%M}",
            f"{meta.rows:,}",
            f"{meta.components}",
            f"{meta.explained:.2%}",
            "" if meta.drift_rad is None else f"{math.degrees(meta.drift_rad):.2f}° from {meta.parent}",
            _labels(meta),
            answers.accuracy_of(meta.version).brief,
            meta.featurizer,
            f"{projections.get(meta.version, 0):,}",
        )
    return table


def _labels(meta: "PcaMeta") -> str:
    if not meta.labels:
        return "none"
    return f"{meta.labels:,}, {'calibrated' if meta.calibrated else 'uncalibrated'}"


def _names_sentence(model: "PcaModel") -> str:
    classifier = model.classifier
    if classifier is None:
        return f"It names no fruit. {model.meta.no_names}"
    confidences = "calibrated on photos that came later" if classifier.calibrated else "uncalibrated"
    return (
        f"It names {len(classifier.labels):,} labels; its confidences are {confidences} (shrinkage "
        f"{classifier.shrinkage:g}, temperature {classifier.temperature:.3g})."
    )


def _echo_comparison(found: "VersionComparison") -> None:
    table = Table(header_style="bold")
    table.add_column("")
    for model in (found.first, found.second):
        table.add_column(f"version {model.meta.version}", justify="right")
    for name, values in _compared(found).items():
        table.add_row(name, *values)
    console.print(table)
    if found.angles_rad is None:
        echo("They are of two featurizers, so their subspaces cannot be compared.")
    else:
        angles = [math.degrees(angle) for angle in found.angles_rad]
        echo(
            f"Between their subspaces: {angles[-1]:.2f}° at most, {angles[len(angles) // 2]:.2f}° in the middle, "
            f"{angles[0]:.2f}° at least."
        )
    for model in (found.first, found.second):
        if model.classifier is None:
            echo(f"Version {model.meta.version} names no fruit. {model.meta.no_names}")
    if found.all.agree.of:
        alike = f"They name alike {found.all.agree} of the labelled photos"
        later = f", {found.new.agree} of those that neither had in its fit" if found.new.agree.of else ""
        echo(f"{alike}{later}. Photos of a fit are named as if they had been left out of it.")
    else:
        echo(
            "No labelled photo has a name from both; `fruits models use VERSION --reproject` makes a version name all."
        )


def _compared(found: "VersionComparison") -> dict[str, tuple[str, str]]:
    def of_both(tell: "Callable[[PcaModel], str]") -> tuple[str, str]:
        return tell(found.first), tell(found.second)

    def of_classifiers(tell: "Callable[[Classifier], str]") -> tuple[str, str]:
        return of_both(lambda model: tell(model.classifier) if model.classifier else "")

    return {
        "fitted at (UTC)": of_both(lambda model: f"{model.meta.fitted_at:%Y-%m-%d %H:%M}"),
        "featurizer": of_both(lambda model: model.meta.featurizer),
        "rows": of_both(lambda model: f"{model.meta.rows:,}"),
        "components": of_both(lambda model: f"{model.meta.components}"),
        "explained": of_both(lambda model: f"{model.meta.explained:.2%}"),
        "labels": of_both(lambda model: f"{model.meta.labels:,}"),
        "confidences": of_classifiers(lambda each: "calibrated" if each.calibrated else "uncalibrated"),
        "shrinkage": of_classifiers(lambda each: f"{each.shrinkage:g}"),
        "temperature": of_classifiers(lambda each: f"{each.temperature:.3g}"),
        "accuracy, photos in neither fit": (f"{found.new.first}", f"{found.new.second}"),
        "accuracy, all photos": (f"{found.all.first}", f"{found.all.second}"),
    }
