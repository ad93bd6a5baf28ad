"""The command that tells what a stage costs."""

from collections.abc import Iterable
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
    photo_days,
)
from bootstrap.aws.prices import Architecture, Prices, load_prices
from features.errors import InvalidSetting
from ops.cli.command import Debug
from ops.cli.console import console, echo


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
    archive_days: Annotated[
        float, typer.Option("--archive-days", help="How long archived photos stay; 0 for --clean delete.")
    ] = Workload.archive_days,
    old_version_days: Annotated[
        float, typer.Option("--old-version-days", help="How long S3 keeps what was deleted.")
    ] = Workload.old_version_days,
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
        archive_days=archive_days,
        old_version_days=old_version_days,
        trigger_s=trigger_s,
        answers=answers,
    )
    listed = load_prices(prices)
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
    task = CLUSTERS[workload.architecture].task
    return [
        f"A photo of {workload.megapixels:g} megapixels and {workload.bytes_a_photo / 1e6:,.3g} MB takes one core "
        f"{core_seconds(workload.megapixels) * 1e3:,.3g} ms: docs/benchmarks.md, {MEASURED_ON}, on another machine; "
        f"a vCPU of {task} is taken for {prices.instance_type(task).relative_speed:g} of its cores.",
        f"The busiest hour has {workload.peak_factor:g} times the mean; task nodes spend "
        f"{workload.utilisation:.0%} of their time on photos; {workload.spot_share:.0%} of their hours are Spot.",
        f"S3 keeps a photo's bytes {photo_days(workload):g} days in all: archived {workload.archive_days:g}, each "
        f"deleted version {workload.old_version_days:g} more. A features row has {FEATURE_ROW_BYTES:,} bytes, a "
        f"projections row {PROJECTION_ROW_BYTES}.",
        f"{workload.projected_versions:g} PCA versions of each row are kept. The stream makes "
        f"{batches_a_month(workload):,.0f} batches a month, at most one each {workload.trigger_s:g} s.",
        f"No source was found for these prices, so they are assumed: {', '.join(guessed)}. Nothing free is deducted, "
        "and neither are refits, taxes and support.",
    ]


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
