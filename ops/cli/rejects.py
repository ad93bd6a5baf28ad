"""The commands that show what was rejected and have it tried once more."""

import shlex
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from features.errors import InvalidSetting
from ops.cli.options import (
    AllowRegion,
    Archive,
    Debug,
    Endpoint,
    Format,
    HomeUri,
    Landing,
    ReadingPatience,
    Region,
    checked_settings,
    console,
    say,
    settings_to_read,
)
from ops.wording import visible
from store.errors import RejectsStillWait

if TYPE_CHECKING:
    import pyarrow as pa

    from ops.rejects import Retryable, Standing
    from store.home import Home
    from store.state.heartbeat import Heartbeat
    from store.state.retries import Retry

rejects_app = typer.Typer(help="Show what was rejected, and have it tried once more.", invoke_without_command=True)

WAIT_S = 15 * 60.0
WAIT_LOOK_S = 1.0
_SHOWN = 20

Reason = Annotated[str | None, typer.Option("--reason", metavar="REASON", help="Only this reason, like missing.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="DATE", help="Only of this ingest_date or later, like 2026-10-03.")
]


@rejects_app.callback()
def summary(
    context: typer.Context,
    home: HomeUri = None,
    reading_patience: ReadingPatience = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Show what was rejected, and have it tried once more; without a command: counts by reason."""
    command = context.invoked_subcommand
    if command is None:
        _summarize(
            settings_to_read(
                home=home,
                reading_patience=reading_patience,
                s3_endpoint=s3_endpoint,
                s3_region=s3_region,
                allow_region=allow_region,
            ).places()
        )
    elif (home, reading_patience, s3_endpoint, s3_region, allow_region) != (None,) * 5:
        raise InvalidSetting(f"Write --home and the like after `{command}`: fruits rejects {command} … --home URI.")


@rejects_app.command(
    "list",
    epilog="Examples:  [bold]fruits rejects list --reason missing[/]  ·  "
    "[bold]fruits rejects list --since 2026-10-03 --format csv[/]",
)
def list_rejects(
    reason: Reason = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0 for all.")] = _SHOWN,
    settled: Annotated[
        bool, typer.Option("--settled", help="Also those whose object came again and is a photo since.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How to write the rows.")] = "table",
    home: HomeUri = None,
    landing: Landing = None,
    reading_patience: ReadingPatience = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """List rejects, newest first."""
    from ops.query.rows import show
    from ops.rejects import Choice, reason_named, rejects

    places = settings_to_read(
        home=home,
        landing=landing,
        reading_patience=reading_patience,
        s3_endpoint=s3_endpoint,
        s3_region=s3_region,
        allow_region=allow_region,
    ).places()
    rows = rejects(places, Choice(reason_named(reason) if reason else None, (), _date(since), settled))
    shown = rows.slice(0, limit or None)
    show(_for_people(places, shown) if form == "table" else shown, form, console)
    if shown.num_rows < rows.num_rows:
        say(f"{shown.num_rows:,} of {rows.num_rows:,}; --limit 0 shows all.")


@rejects_app.command("show", epilog="Example:  [bold]fruits rejects show kiwi/IMG_0001.jpg[/]")
def show_reject(
    source: Annotated[str, typer.Argument(help="The object's key below the landing, or its URI.")],
    home: HomeUri = None,
    landing: Landing = None,
    archive: Archive = None,
    reading_patience: ReadingPatience = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Show all that is known of one object's rejects, where it is now, and what to do."""
    from ops.rejects import rejects_of, source_named, standing

    places = settings_to_read(
        home=home,
        landing=landing,
        archive=archive,
        reading_patience=reading_patience,
        s3_endpoint=s3_endpoint,
        s3_region=s3_region,
        allow_region=allow_region,
    ).places()
    rows = rejects_of(places, source_named(places, source))
    for row in rows:
        console.print(_card(row, standing(places, row)))
    if not rows[0]["settled"]:
        _print(f"To retry: fruits rejects retry --source {shlex.quote(source)} --home {places.root.uri}")


@rejects_app.command(
    epilog="Examples:  [bold]fruits rejects retry --reason too_many_pixels[/]  ·  "
    "[bold]fruits rejects retry --source kiwi/IMG_0001.jpg --wait[/]"
)
def retry(
    reason: Reason = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="KEY", help="Only this object; may be given again.")
    ] = None,
    since: Since = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be tried again, and ask nobody.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when all have their outcome, and tell it.")] = False,
    home: HomeUri = None,
    landing: Landing = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Ask the stream to try rejects once more; one that becomes a photo is a reject no longer."""
    from ops.rejects import Choice, reason_named, retryable, source_named
    from store.state.retries import request_retries

    if not (reason or source or since):
        raise InvalidSetting("Choose what to try again: --reason too_many_pixels, --source KEY or --since DATE.")
    places = checked_settings(
        home=home, landing=landing, s3_endpoint=s3_endpoint, s3_region=s3_region, allow_region=allow_region
    ).places()
    sources = tuple(source_named(places, name) for name in source or ())
    wanted = retryable(places, Choice(reason_named(reason) if reason else None, sources, _date(since)))
    _say_what_is_passed_over(wanted)
    if not wanted.retries:
        console.print("Nothing to try again.")
        return
    if dry_run:
        _say_what(wanted, "would be")
        console.print("A dry run: nobody was asked.")
        return
    stream = _running(places)
    if wait and stream is None:
        raise RejectsStillWait(
            f"No stream runs on {places.root.uri}; start one, or leave out --wait: the next one finds the request."
        )
    request_retries(places, places.landing.source, wanted.retries, wanted.erasures_begun)
    _say_what(wanted, "will be")
    if stream is None:
        _print(f"No stream is running. The next one plans them: fruits stream --home {places.root.uri}")
    else:
        _print(f"The stream ({stream.holder}) plans them within 10 seconds, with the limits it was started with.")
    if wait:
        _wait(places, wanted.retries)


def _date(text: str | None) -> date | None:
    try:
        return None if text is None else date.fromisoformat(text)
    except ValueError:
        raise InvalidSetting(f"{text!r} is no date; write it like 2026-10-03.") from None


def _summarize(home: "Home") -> None:
    from features.rejects import Reason as Reasons
    from ops.rejects import WHAT_TO_DO, counts, settled_count, waiting

    rows = counts(home)
    if rows.num_rows:
        table = Table(header_style="bold")
        for name in ("reason", "rejects", "last", "example", "what to do"):
            table.add_column(name, justify="right" if name == "rejects" else "left", overflow="fold")
        for row in rows.to_pylist():
            table.add_row(
                row["reason"],
                f"{row['rejects']:,}",
                f"{row['last']:%Y-%m-%d %H:%M}",
                Text(visible(row["example"])),
                WHAT_TO_DO[Reasons(row["reason"])],
            )
        console.print(table)
    else:
        console.print("No rejects.")
    if count := settled_count(home):
        _print(f"{count:,} more came again and are photos since; fruits rejects list --settled shows them.")
    if count := waiting(home):
        _print(f"{count:,} are asked for and wait to be tried again.")


def _for_people(home: "Home", rows: "pa.Table") -> "pa.Table":
    import pyarrow as pa

    keys = [source.removeprefix(f"{home.landing.source}/") for source in rows["source"].to_pylist()]
    return rows.select(["ingest_date", "reason", "bytes", "detail"]).add_column(2, "key", pa.array(keys, pa.string()))


def _card(row: Mapping[str, Any], standing: "Standing") -> Table:
    card = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    card.add_column(style="bold")
    card.add_column(overflow="fold")
    for name, value in row.items():
        if name != "settled":
            shown = f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else str(value)
            card.add_row(name, Text(visible(shown)))
    card.add_row("now", Text(visible(_where(standing))))
    card.add_row("to do", _advice(row, standing), end_section=True)
    return card


def _where(standing: "Standing") -> str:
    match standing.place:
        case "landing":
            return "in the landing, the version that was rejected"
        case "archive":
            return f"in the archive: {standing.detail}"
        case "replaced":
            return f"another version stands in the landing, with the etag {standing.detail}"
        case "gone":
            return "neither in the landing nor in the archive"
    return f"unknown: {standing.detail}"


def _advice(row: Mapping[str, Any], standing: "Standing") -> str:
    from features.rejects import Reason as Reasons
    from ops.rejects import WHAT_TO_DO

    if row["settled"]:
        return "nothing: the object came again and is a photo since"
    if standing.place == "gone":
        return "upload it again: it is an arrival of its own then"
    if standing.place == "replaced":
        return WHAT_TO_DO[Reasons.REPLACED]
    if row["reason"] in (Reasons.MISSING, Reasons.REPLACED) and standing.place != "unknown":
        return "it is there again: retry"
    return WHAT_TO_DO[Reasons(row["reason"])]


def _say_what_is_passed_over(wanted: "Retryable") -> None:
    if wanted.settled:
        _print(f"Passed over, because they came again and are photos since: {wanted.settled:,}.")
    if wanted.asked_before:
        _print(f"Passed over, because they are asked for already: {wanted.asked_before:,}.")
    if wanted.elsewhere is not None:
        _print(f"Passed over, because another landing holds them (name it with --landing): {wanted.elsewhere} …")


def _say_what(wanted: "Retryable", verb: str) -> None:
    by_reason = ", ".join(f"{reason} {count:,}" for reason, count in sorted(wanted.reasons.items()))
    _print(f"Rejects that {verb} tried again: {len(wanted.retries):,} ({by_reason}).")


def _running(home: "Home") -> "Heartbeat | None":
    from store.state.heartbeat import is_alive, read_heartbeat

    heartbeat = read_heartbeat(home)
    return heartbeat if heartbeat is not None and is_alive(heartbeat, datetime.now(UTC)) else None


def _wait(home: "Home", retries: tuple["Retry", ...]) -> None:
    from ops.rejects import are_open, retry_outcomes

    gives_up_at_s = time.monotonic() + WAIT_S
    while are_open(home, retries):
        if _running(home) is None:
            raise RejectsStillWait("The stream has ended meanwhile; the next one goes on with what is left.")
        if time.monotonic() >= gives_up_at_s:
            raise RejectsStillWait("Some still wait after 15 minutes; the stream goes on. Look with `fruits rejects`.")
        time.sleep(WAIT_LOOK_S)
    outcome = retry_outcomes(home, retries)
    photos = outcome.pop("photo", 0)
    again = ", ".join(f"{reason} {count:,}" for reason, count in outcome.items())
    _print(f"Photos now: {photos:,}. Rejected again: {again or 'none'}.")


def _print(sentence: str) -> None:
    console.print(visible(sentence), markup=False, highlight=False, soft_wrap=True)
