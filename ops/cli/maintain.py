"""The command that keeps the tables small and quick."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli.options import AllowRegion, Debug, Endpoint, HomeUri, Master, Region, checked_settings, console, say

if TYPE_CHECKING:
    from batch.maintain.maintain import Compaction, Expiry, LogRemoval, MaintenanceStep, OrphanRemoval
    from store.settings import Settings

KeepArchive = Annotated[
    str | None, typer.Option("--keep-archive", metavar="DURATION", help="Delete archived photos after this, like 90d.")
]
KeepReports = Annotated[
    str | None, typer.Option("--keep-reports", metavar="DURATION", help="Delete pages of reports after this, like 30d.")
]
KeepRows = Annotated[
    str | None, typer.Option("--keep-rows", metavar="DURATION", help="Delete rows of days older than this, like 730d.")
]


def maintain(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and change nothing.")] = False,
    keep_archive: KeepArchive = None,
    keep_reports: KeepReports = None,
    keep_rows: KeepRows = None,
    home: HomeUri = None,
    master: Master = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Compact finished hours and days, remove what no table needs since a day, keep the logs short."""
    from batch.maintain.maintain import maintain as run_maintain
    from batch.maintain.retention import Retention
    from store.tables.ingested import check_ingested

    settings = checked_settings(
        keep_archive=keep_archive,
        keep_reports=keep_reports,
        keep_rows=keep_rows,
        home=home,
        master=master,
        s3_endpoint=s3_endpoint,
        s3_region=s3_region,
        allow_region=allow_region,
    )
    saved: Counter[str] = Counter()

    def done(piece: "MaintenanceStep") -> None:
        saved.update(_saved(piece))
        console.print(_sentence(piece, dry_run), highlight=False, soft_wrap=True)

    retention = Retention(settings.keep_archive, settings.keep_rows, settings.keep_reports)
    with as_yarn_expects(settings, "fruits-maintain"):
        places = settings.places()
        check_ingested(places)
        run_maintain(places, retention, say, done, dry_run)
    if dry_run:
        console.print("A dry run: nothing was changed.")
    else:
        console.print(
            f"Done: {saved['files']:,} files fewer in the tables, {_mb(saved['freed'])} of storage freed, "
            f"{_mb(saved['replaced'])} replaced and freed after a day.",
            highlight=False,
        )


@contextmanager
def as_yarn_expects(settings: "Settings", name: str) -> Iterator[None]:
    """For work that needs no Spark: YARN calls a job failed that opens no session, whatever it did."""
    if not settings.master.startswith("yarn"):
        yield
        return
    from bootstrap.java import use_java
    from streaming.session import spark_session

    use_java()
    with spark_session(settings.master, name):
        yield


def _saved(piece: "MaintenanceStep") -> dict[str, int]:
    from batch.maintain.maintain import Compaction, Expiry, LogRemoval, OrphanRemoval

    match piece:
        case Compaction(group, _):
            return {"files": len(group.files) - 1, "replaced": group.size_bytes}
        case OrphanRemoval(_, removed) | LogRemoval(_, removed, _):
            return {"freed": max(0, removed.size_bytes)}
        case Expiry("archive" | "reports", expired):
            return {"freed": expired.size_bytes}
    return {}


def _sentence(piece: "MaintenanceStep", dry_run: bool) -> str:
    from batch.maintain.maintain import Compaction, LogRemoval, OrphanRemoval

    match piece:
        case Compaction():
            return _compacted(piece)
        case OrphanRemoval():
            return _swept(piece, dry_run)
        case LogRemoval():
            return _shortened(piece)
    return _kept(piece, dry_run)


def _compacted(piece: "Compaction") -> str:
    group = piece.group
    when = f"{group.ingest_date}" if group.hour is None else f"{group.ingest_date}, hour {group.hour:%H}"
    after = "one" if piece.size_bytes is None else f"one of {_mb(piece.size_bytes)}"
    return f"{group.table.name} of {when}: {len(group.files):,} files of {_mb(group.size_bytes)} become {after}."


def _swept(piece: "OrphanRemoval", dry_run: bool) -> str:
    verb = "would be removed" if dry_run else "removed"
    removed = piece.removed
    return f"{piece.table}: {removed.count:,} files that nothing names since a day {verb}, {_mb(removed.size_bytes)}."


def _shortened(piece: "LogRemoval") -> str:
    return (
        f"{piece.table}: its log has {piece.left.count:,} files, {_mb(piece.left.size_bytes)}; "
        f"{max(0, piece.removed.count):,} removed."
    )


def _kept(piece: "Expiry", dry_run: bool) -> str:
    what = {"archive": "photos", "reports": "pages"}.get(piece.place, "rows")
    verb = "would be deleted" if dry_run else "deleted"
    expired = piece.expired
    return (
        f"{piece.place}: {expired.count:,} {what} are older than they are kept and {verb}, {_mb(expired.size_bytes)}."
    )


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.2f} MB"
