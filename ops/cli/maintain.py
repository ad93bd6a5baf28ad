"""The command that keeps the tables small and quick."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli.command import HOME, Flags, takes_settings
from ops.cli.console import echo, notify
from ops.cli.spark_job import as_yarn_expects

if TYPE_CHECKING:
    from batch.maintain.maintain import Compacted, Kept, Piece, Shortened, Swept


@takes_settings(*HOME, "keep_archive", "keep_reports", "keep_rows", "master")
def maintain(
    flags: Flags,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and change nothing.")] = False,
) -> None:
    """Compact finished hours and days, remove what no table needs since a day, keep the logs short."""
    from batch.maintain.maintain import Watcher
    from batch.maintain.maintain import maintain as run_maintain
    from batch.maintain.retention import Retention
    from store.tables.ingested import check_ingested

    settings = flags.open_to_change()
    saved: Counter[str] = Counter()

    def done(piece: "Piece") -> None:
        saved.update(_saved(piece))
        echo(_sentence(piece, dry_run))

    retention = Retention(settings.keep_archive, settings.keep_rows, settings.keep_reports)
    with as_yarn_expects(settings, "fruits-maintain"):
        home = settings.places()
        check_ingested(home)
        run_maintain(home, retention, Watcher(notify, done), dry_run)
    if dry_run:
        echo("A dry run: nothing was changed.")
    else:
        echo(
            f"Done: {saved['files']:,} files fewer in the tables, {_mb(saved['freed'])} of storage freed, "
            f"{_mb(saved['replaced'])} replaced and freed after a day."
        )


def _saved(piece: "Piece") -> dict[str, int]:
    from batch.maintain.maintain import Compacted, Kept, Shortened, Swept

    match piece:
        case Compacted(group, _):
            return {"files": len(group.files) - 1, "replaced": group.size_bytes}
        case Swept(_, removed) | Shortened(_, removed, _):
            return {"freed": max(0, removed.size_bytes)}
        case Kept("archive" | "reports", expired):
            return {"freed": expired.size_bytes}
    return {}


def _sentence(piece: "Piece", dry_run: bool) -> str:
    from batch.maintain.maintain import Compacted, Shortened, Swept

    match piece:
        case Compacted():
            return _compacted(piece)
        case Swept():
            return _swept(piece, dry_run)
        case Shortened():
            return _shortened(piece)
    return _kept(piece, dry_run)


def _compacted(piece: "Compacted") -> str:
    group = piece.group
    when = f"{group.ingest_date}" if group.hour is None else f"{group.ingest_date}, hour {group.hour:%H}"
    after = "one" if piece.size_bytes is None else f"one of {_mb(piece.size_bytes)}"
    return f"{group.table.name} of {when}: {len(group.files):,} files of {_mb(group.size_bytes)} become {after}."


def _swept(piece: "Swept", dry_run: bool) -> str:
    verb = "would be removed" if dry_run else "removed"
    removed = piece.removed
    return f"{piece.table}: {removed.files:,} files that nothing names since a day {verb}, {_mb(removed.size_bytes)}."


def _shortened(piece: "Shortened") -> str:
    return (
        f"{piece.table}: its log has {piece.left.files:,} files, {_mb(piece.left.size_bytes)}; "
        f"{max(0, piece.removed.files):,} removed."
    )


def _kept(piece: "Kept", dry_run: bool) -> str:
    what = {"archive": "photos", "reports": "pages"}.get(piece.place, "rows")
    verb = "would be deleted" if dry_run else "deleted"
    expired = piece.expired
    return (
        f"{piece.place}: {expired.count:,} {what} are older than they are kept and {verb}, {_mb(expired.size_bytes)}."
    )


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.2f} MB"
