"""The commands that show rejects and have them tried again."""

import shlex
import time
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from features.errors import InvalidSetting
from ops.cli.command import HOME, READING, Flags, examples, runs_alone, takes_settings
from ops.cli.console import Format, console, echo, notify
from ops.wording import escape_controls
from store.errors import RejectsStillWait

if TYPE_CHECKING:
    from ops.rejects import Reject, RejectFilter
    from store.home import Home
    from store.objects.originals import VersionLocation
    from store.state.heartbeat import Heartbeat

app = typer.Typer(help="Show what was rejected, and have it tried once more.", invoke_without_command=True)

WAIT_S = 15 * 60.0
WAIT_LOOK_S = 1.0
_LIMIT = 20

Reason = Annotated[str | None, typer.Option("--reason", metavar="REASON", help="Only this reason, like missing.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="DATE", help="Only of this ingest_date or later, like 2026-10-03.")
]


@app.callback()
@takes_settings(*READING)
def rejects(flags: Flags, context: typer.Context) -> None:
    """Show what was rejected, and have it tried once more; without a command: counts by reason."""
    if not runs_alone(flags, context):
        return
    from ops.rejects import WHAT_TO_DO, summarize

    summary = summarize(flags.open_to_read().places())
    if summary.reasons:
        table = Table(header_style="bold")
        for name in ("reason", "rejects", "last", "example", "what to do"):
            table.add_column(name, justify="right" if name == "rejects" else "left", overflow="fold")
        for each in summary.reasons:
            example = Text(escape_controls(each.example))
            last = f"{each.last_at:%Y-%m-%d %H:%M}"
            table.add_row(each.reason, f"{each.rejects:,}", last, example, WHAT_TO_DO[each.reason])
        console.print(table)
    else:
        echo("No rejects.")
    if summary.settled:
        echo(f"{summary.settled:,} more came again and are photos since; fruits rejects list --settled shows them.")
    if summary.requested:
        echo(f"{summary.requested:,} are asked for and wait to be tried again.")


@app.command(
    "list",
    epilog=examples("fruits rejects list --reason missing", "fruits rejects list --since 2026-10-03 --format csv"),
)
@takes_settings(*READING, "landing")
def list_command(
    flags: Flags,
    reason: Reason = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="The newest so many; 0 for all.")] = _LIMIT,
    settled: Annotated[
        bool, typer.Option("--settled", help="Also those whose object came again and is a photo since.")
    ] = False,
    form: Annotated[Format, typer.Option("--format", help="How to write the rows.")] = "table",
) -> None:
    """List rejects, newest first."""
    import pyarrow as pa

    from ops.query.rows import show
    from ops.rejects import list_rejects

    home = flags.open_to_read().places()
    rows = list_rejects(home, _filter(reason, since, with_settled=settled))
    shown = rows.slice(0, limit or None)
    if form == "table":
        keys = [uri.removeprefix(f"{home.landing.source}/") for uri in shown["source"].to_pylist()]
        for_people = shown.select(["ingest_date", "reason", "bytes", "detail"])
        shown = for_people.add_column(2, "key", pa.array(keys, pa.string()))
    show(shown, form, console)
    if shown.num_rows < rows.num_rows:
        notify(f"{shown.num_rows:,} of {rows.num_rows:,}; --limit 0 shows all.")


@app.command("show", epilog=examples("fruits rejects show kiwi/IMG_0001.jpg"))
@takes_settings(*READING, "landing", "archive")
def show_reject(
    flags: Flags,
    source: Annotated[str, typer.Argument(help="The object's key below the landing, or its URI.")],
) -> None:
    """Show all that is known of one object's rejects, where it is now, and what to do."""
    from ops.rejects import find_version, rejects_of, source_of

    home = flags.open_to_read().places()
    found = rejects_of(home, source_of(home, source))
    for reject in found:
        console.print(_card(reject, find_version(home, reject)))
    if not found[0].settled:
        echo(f"To retry: fruits rejects retry --source {shlex.quote(source)} --home {home.root.uri}")


@app.command(
    epilog=examples(
        "fruits rejects retry --reason too_many_pixels", "fruits rejects retry --source kiwi/IMG_0001.jpg --wait"
    )
)
@takes_settings(*HOME, "landing")
def retry(
    flags: Flags,
    reason: Reason = None,
    source: Annotated[
        list[str] | None, typer.Option("--source", metavar="KEY", help="Only this object; may be given again.")
    ] = None,
    since: Since = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be tried again, and ask nobody.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Return when all have their outcome, and tell it.")] = False,
) -> None:
    """Ask the stream to try rejects once more; one that becomes a photo is a reject no longer."""
    from ops.rejects import are_unfinished, count_outcomes, select_retries, source_of
    from store.state.retries import request_retries

    if not (reason or source or since):
        raise InvalidSetting("Choose what to try again: --reason too_many_pixels, --source KEY or --since DATE.")
    home = flags.open_to_change().places()
    sources = tuple(source_of(home, name) for name in source or ())
    selection = select_retries(home, _filter(reason, since, sources))
    if selection.settled:
        echo(f"Passed over, because they came again and are photos since: {selection.settled:,}.")
    if selection.requested_before:
        echo(f"Passed over, because they are asked for already: {selection.requested_before:,}.")
    if selection.elsewhere is not None:
        echo(f"Passed over, because another landing holds them (name it with --landing): {selection.elsewhere} …")
    if not selection.retries:
        echo("Nothing to try again.")
        return
    by_reason = ", ".join(f"{name} {count:,}" for name, count in sorted(selection.reasons.items()))
    counts = f"{len(selection.retries):,} ({by_reason})"
    if dry_run:
        echo(f"Rejects that would be tried again: {counts}.")
        echo("A dry run: nobody was asked.")
        return
    stream = _running_stream(home)
    if wait and stream is None:
        raise RejectsStillWait(
            f"No stream runs on {home.root.uri}; start one, or leave out --wait: the next one finds the request."
        )
    request_retries(home, home.landing.source, selection.retries, selection.erasures_begun)
    echo(f"Rejects that will be tried again: {counts}.")
    if stream is None:
        echo(f"No stream is running. The next one plans them: fruits stream --home {home.root.uri}")
    else:
        echo(f"The stream ({stream.holder}) plans them within 10 seconds, with the limits it was started with.")
    if not wait:
        return
    gives_up_at_s = time.monotonic() + WAIT_S
    while are_unfinished(home, selection.retries):
        if _running_stream(home) is None:
            raise RejectsStillWait("The stream has ended meanwhile; the next one goes on with what is left.")
        if time.monotonic() >= gives_up_at_s:
            raise RejectsStillWait("Some still wait after 15 minutes; the stream goes on. Look with `fruits rejects`.")
        time.sleep(WAIT_LOOK_S)
    outcomes = count_outcomes(home, selection.retries)
    photos = outcomes.pop("photo", 0)
    again = ", ".join(f"{name} {count:,}" for name, count in outcomes.items())
    echo(f"Photos now: {photos:,}. Rejected again: {again or 'none'}.")


def _filter(
    reason: str | None, since: str | None, sources: tuple[str, ...] = (), *, with_settled: bool = False
) -> "RejectFilter":
    from features.rejects import Reason as Reasons
    from ops.rejects import RejectFilter

    try:
        day = None if since is None else date.fromisoformat(since)
    except ValueError:
        raise InvalidSetting(f"{since!r} is no date; write it like 2026-10-03.") from None
    if reason and reason not in set(Reasons):
        raise InvalidSetting(f"{reason!r} is no reason; the reasons are {', '.join(Reasons)}.")
    return RejectFilter(Reasons(reason) if reason else None, sources, day, with_settled)


def _card(reject: "Reject", version: "VersionLocation") -> Table:
    from features.rejects import Reason as Reasons
    from ops.rejects import WHAT_TO_DO

    card = Table(show_header=False, box=None, padding=(0, 2, 0, 0))
    card.add_column(style="bold")
    card.add_column(overflow="fold")
    for name, value in asdict(reject).items():
        if name != "settled":
            shown = f"{value:%Y-%m-%d %H:%M:%S} UTC" if isinstance(value, datetime) else str(value)
            card.add_row(name, Text(escape_controls(shown)))
    reason = Reasons(reject.reason)
    retry = "it is there again: retry" if reason in (Reasons.MISSING, Reasons.REPLACED) else WHAT_TO_DO[reason]
    where, advice = {
        "landing": ("in the landing, the version that was rejected", retry),
        "archive": (f"in the archive: {version.detail}", retry),
        "replaced": (
            f"another version stands in the landing, with the etag {version.detail}",
            WHAT_TO_DO[Reasons.REPLACED],
        ),
        "gone": ("neither in the landing nor in the archive", "upload it again: it is an arrival of its own then"),
        "unknown": (f"unknown: {version.detail}", WHAT_TO_DO[reason]),
    }[version.place]
    advice = "nothing: the object came again and is a photo since" if reject.settled else advice
    card.add_row("now", Text(escape_controls(where)))
    card.add_row("to do", advice, end_section=True)
    return card


def _running_stream(home: "Home") -> "Heartbeat | None":
    from store.state.heartbeat import is_alive, read_heartbeat

    heartbeat = read_heartbeat(home)
    return heartbeat if heartbeat is not None and is_alive(heartbeat, datetime.now(UTC)) else None
