"""The command that makes the report."""

import webbrowser
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from ops.cli.command import READING, Flags, takes_settings
from ops.cli.console import echo


@takes_settings(*READING, "landing", "archive")
def report(
    flags: Flags,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE", help="Write it here; default: reports/ below the home.")
    ] = None,
    thumbnails: Annotated[
        bool, typer.Option("--thumbnails", help="Put small pictures of the map's photos into the page.")
    ] = False,
    since: Annotated[
        datetime | None,
        typer.Option("--since", metavar="DATE", formats=["%Y-%m-%d"], help="Only what was ingested from this day on."),
    ] = None,
    open_it: Annotated[bool, typer.Option("--open", help="Open it in the browser; on S3 only with --output.")] = False,
) -> None:
    """Make one page that shows photos, rejects, waits, pace, drift and a map, and opens without a network."""
    from ops.report.written import write_report

    settings = flags.open_to_read()
    made = write_report(
        settings.places(),
        settings.limits,
        since=since.date() if since else None,
        with_thumbnails=thumbnails,
        file=output,
        now=datetime.now(UTC),
    )
    echo(f"{made.uri}  ({made.size_bytes / 1e6:.1f} MB)")
    if open_it and made.uri.startswith("file://"):
        webbrowser.open(made.uri)
