"""The command that shows how a home stands."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from ops.options import AllowRegion, Debug, Endpoint, HomeUri, Landing, Region, checked_settings, console

if TYPE_CHECKING:
    from ops.status import Status, StreamStatus, Switch


def status(
    verify: Annotated[bool, typer.Option("--verify", help="Check every planned object against the tables.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
    home: HomeUri = None,
    landing: Landing = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Show the last batch, the backlog and the tables; exit 1 when --verify finds a broken promise."""
    from ops.status import look

    settings = checked_settings(
        home=home, landing=landing, s3_endpoint=s3_endpoint, s3_region=s3_region, allow_region=allow_region
    )
    found = look(settings.places(), verify)
    if as_json:
        print(json.dumps(asdict(found), default=str))
    else:
        _print_status(found)
    if found.broken:
        raise typer.Exit(1)


def _print_status(found: "Status") -> None:
    console.print(f"[bold]{found.home}[/]  featurizer {found.featurizer or 'none yet'}", highlight=False)
    if found.last_batch is None:
        console.print("No batch yet.")
    else:
        last = found.last_batch
        console.print(
            f"Last batch {last.batch}: photos {last.photos}, rejects {last.rejects}, "
            f"finished {last.finished_at:%Y-%m-%d %H:%M:%S} UTC.",
            highlight=False,
        )
    console.print(_stream_sentence(found.stream), highlight=False)
    console.print(_pca_sentence(found.pca), highlight=False)
    backlog = found.backlog
    console.print(f"Backlog: {backlog.files:,} files, {backlog.bytes / 1e6:,.1f} MB.", highlight=False)
    if found.unfinished_batches:
        console.print(f"Planned but not committed: {', '.join(map(str, found.unfinished_batches))}.", highlight=False)
    tables = Table(header_style="bold")
    for name in ("table", "rows", "files", "MB", "last batch"):
        tables.add_column(name, justify="left" if name == "table" else "right")
    for table in found.tables:
        tables.add_row(
            table.name, f"{table.rows:,}", f"{table.files:,}", f"{table.bytes / 1e6:,.2f}", f"{table.last_batch}"
        )
    console.print(tables)
    if found.broken is not None:
        for sentence in found.broken:
            console.print(f"[bold red]broken:[/] {sentence}", highlight=False)
        if not found.broken:
            projected = ", every row its projection" if found.pca.serving is not None else ""
            console.print(f"Verified: every planned object has exactly one row{projected}.", style="green")


def _stream_sentence(stream: "StreamStatus | None") -> str:
    if stream is None:
        return "Stream: none has run yet."
    last_sign = f"{stream.last_sign_at:%Y-%m-%d %H:%M:%S} UTC"
    if stream.state == "running":
        return f"Stream: running since {stream.started_at:%Y-%m-%d %H:%M:%S} UTC, last sign {last_sign}."
    return f"Stream: stopped at {last_sign}." if stream.state == "stopped" else f"Stream: silent since {last_sign}."


def _pca_sentence(pca: "Switch") -> str:
    served = "PCA: no version is served yet" if pca.serving is None else f"PCA: version {pca.serving} is served"
    if pca.next is None:
        return f"{served}."
    return f"{served}; {pca.lacking_batches} batches lack version {pca.next}, the next one."
