"""The command that tells what a stage costs."""

from collections.abc import Iterable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from bootstrap.aws.cost import (
    CLUSTERS,
    FEATURE_ROW_BYTES,
    MEASURED_ON,
    PROJECTION_ROW_BYTES,
    USUAL_MEGAPIXELS,
    Estimate,
    Workload,
    batches_a_month,
    core_seconds,
    estimate,
    idle,
    megapixels_of,
)
from bootstrap.aws.keeping import COPY_BYTES, DAYS_A_MONTH, Keeping
from bootstrap.aws.prices import Architecture, Prices, load_prices
from bootstrap.aws.promises import Promise, Way, ways_to_keep
from features.errors import InvalidSetting
from ops.cli.command import Debug
from ops.cli.console import console, echo
from store.setting_fields import parse_duration


def cost(
    photos_per_day: Annotated[
        float | None, typer.Option("--photos-per-day", metavar="N", help="Photos that land in a day.")
    ] = None,
    region: Annotated[str, typer.Option("--region", help="The stage's region.")] = "eu-west-3",
    architecture: Annotated[Architecture, typer.Option("--architecture", help="The nodes' processors.")] = "arm64",
    megapixels: Annotated[
        float | None, typer.Option("--megapixels", help=f"Of one photo; default: {USUAL_MEGAPIXELS}.")
    ] = None,
    photo_bytes: Annotated[
        float | None, typer.Option("--photo-bytes", help="Of one photo; default: as usual for its megapixels.")
    ] = None,
    peak_factor: Annotated[
        float, typer.Option("--peak-factor", help="The busiest hour beside the mean one.")
    ] = Workload.peak_factor,
    spot_share: Annotated[
        float, typer.Option("--spot-share", help="The share of the task nodes' hours on Spot.")
    ] = Workload.spot_share,
    original_days: Annotated[
        float, typer.Option("--original-days", help="How long photos stay where they landed, the setting clean_after.")
    ] = Keeping.original_days,
    archive_days: Annotated[
        float, typer.Option("--archive-days", help="How long archived photos stay; 0 without --clean archive.")
    ] = Keeping.archive_days,
    copy_days: Annotated[
        float, typer.Option("--copy-days", help="How long copies stay, the setting keep_copies; 0 without copies.")
    ] = Keeping.copy_days,
    old_version_days: Annotated[
        float, typer.Option("--old-version-days", help="How long S3 keeps what was deleted.")
    ] = Keeping.old_version_days,
    promise_originals: Annotated[
        str | None,
        typer.Option("--promise-originals", metavar="DURATION", help="Find the cheapest way to have photos so long."),
    ] = None,
    promise_features: Annotated[
        str | None,
        typer.Option(
            "--promise-features", metavar="DURATION", help="Find the cheapest way to make features again so long."
        ),
    ] = None,
    trigger_s: Annotated[
        float, typer.Option("--trigger-seconds", help="How often the stream looks.")
    ] = Workload.trigger_s,
    answers: Annotated[bool, typer.Option("--answers", help="The stream answers each photo.")] = Workload.answers,
    only_idle: Annotated[
        bool, typer.Option("--idle", help="Show what stands there with no photos, one line a resource.")
    ] = False,
    prices: Annotated[Path | None, typer.Option("--prices", metavar="FILE", help="Another price list.")] = None,
    debug: Debug = False,
) -> None:
    """Tell what a stage costs a month, in dollars, from a price list and the measured pace; nothing is asked of AWS."""
    if photos_per_day is None and not only_idle:
        raise InvalidSetting("Say how many photos land in a day: --photos-per-day N; or --idle for none.")
    if megapixels is None:
        megapixels = USUAL_MEGAPIXELS if photo_bytes is None else megapixels_of(photo_bytes)
    workload = Workload(
        photos_per_day or 0,
        region=region,
        architecture=architecture,
        megapixels=megapixels,
        photo_bytes=photo_bytes,
        peak_factor=peak_factor,
        spot_share=spot_share,
        keeping=Keeping(original_days, archive_days, copy_days, old_version_days=old_version_days),
        trigger_s=trigger_s,
        answers=answers,
    )
    listed = load_prices(prices)
    if promise_originals is not None or promise_features is not None:
        promise = Promise(_days(promise_originals, "originals"), _days(promise_features, "features"))
        _show_ways(promise, ways_to_keep(promise, workload, listed))
        return
    standing = idle(workload, listed)
    shown = standing if only_idle else estimate(workload, listed)
    table = Table(header_style="bold", show_footer=True)
    table.add_column("item", "total")
    for name in ("quantity", "unit", "price, $"):
        table.add_column(name, justify="left" if name == "unit" else "right")
    table.add_column("$ a month", money(shown.dollars), justify="right")
    for item in shown.items:
        if item.quantity:
            table.add_row(item.name, f"{item.quantity:,.6g}", item.unit, f"{item.price:.4g}", money(item.dollars))
    console.print(table)
    for sentence in (*_sums(shown, standing), *assumptions(shown.workload, listed)):
        echo(sentence)


def assumptions(workload: Workload, prices: Prices) -> list[str]:
    """In words, what the figures rest on."""
    guessed = [name for name, service in prices.services.items() if service.assumed]
    task, keeping = CLUSTERS[workload.architecture].task, workload.keeping
    return [
        f"A photo of {workload.megapixels:g} megapixels and {workload.bytes_a_photo / 1e6:,.3g} MB takes one core "
        f"{core_seconds(workload.megapixels) * 1e3:,.3g} ms: docs/benchmarks.md, {MEASURED_ON}, on another machine; "
        f"a vCPU of {task} is taken for {prices.instance_type(task).relative_speed:g} of its cores.",
        f"The busiest hour has {workload.peak_factor:g} times the mean; task nodes spend "
        f"{workload.utilisation:.0%} of their time on photos; {workload.spot_share:.0%} of their hours are Spot.",
        f"S3 keeps a photo {keeping.original_days:g} days where it landed, {keeping.archive_days:g} in the archive, "
        f"its copy {keeping.copy_days:g}; with the wait for a listing and old versions {keeping.landed_days:g}, "
        f"{keeping.archived_days:g} and {keeping.copied_days:g} days. After "
        f"{keeping.steady_after_days / DAYS_A_MONTH:.1f} months only the tables of rows grow.",
        f"A copy of a large photo has {COPY_BYTES:,} bytes, a features row {FEATURE_ROW_BYTES:,}, a projections row "
        f"{PROJECTION_ROW_BYTES}.",
        f"{workload.projected_versions:g} PCA versions of each row are kept. The stream makes "
        f"{batches_a_month(workload):,.0f} batches a month, at most one each {workload.trigger_s:g} s.",
        f"No source was found for these prices, so they are assumed: {', '.join(guessed)}. Nothing free is deducted, "
        "and neither are refits, taxes and support.",
    ]


def _show_ways(promise: Promise, ways: Sequence[Way]) -> None:
    cheapest = next(way for way in ways if not way.needs_rule)
    echo(
        f"That an original can be had for {promise.original_days:g} days and features can be made again for "
        f"{promise.feature_days:g} costs ${money(cheapest.dollars)} a month at least, with {cheapest.settings}."
    )
    table = Table(header_style="bold")
    table.add_column("way")
    table.add_column("$ a month", justify="right")
    for way in ways:
        table.add_row(way.settings + (" *" if way.needs_rule else ""), money(way.dollars))
    console.print(table)
    if any(way.needs_rule for way in ways):
        echo("* needs a lifecycle rule of S3 that moves objects to this class, of your own: the stack has none.")


def _days(duration: str | None, what: str) -> float:
    try:
        return float(parse_duration(duration or "0d") / timedelta(days=1))
    except ValueError as error:
        raise InvalidSetting(f"--promise-{what}: {error}") from error


def _sums(shown: Estimate, standing: Estimate) -> Iterable[str]:
    fleet, per_million = shown.fleet, shown.dollars_per_million_photos
    if per_million is not None:
        yield f"${per_million:,.2f} for a million photos; {fleet.core_hours:,.0f} core-hours of work a month."
    yield (
        f"1 primary and 1 core node {shown.cluster.steady} always; up to {fleet.task_nodes_at_peak} task nodes "
        f"{shown.cluster.task}, {fleet.task_hours:,.0f} hours of them a month. The stack's MaxCapacityUnits has to be "
        f"{fleet.capacity_units} or more."
    )
    stays = sum(item.dollars for item in standing.items if item.stays)
    yield f"Idle: ${money(standing.dollars)} a month with no photos; ${money(stays)} after `fruits destroy`."


def money(dollars: float) -> str:
    """Dollars for a table: cents below ten, else whole ones."""
    return f"{dollars:,.2f}" if dollars < 10 else f"{dollars:,.0f}"
