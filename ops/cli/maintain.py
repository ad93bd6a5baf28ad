"""The command that keeps the tables small and quick."""

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from ops.cli.command import HOME, Flags, takes_settings
from ops.cli.console import echo, notify
from ops.cli.spark_job import as_yarn_expects

if TYPE_CHECKING:
    from batch.maintain.maintain import MaintenanceStep


@takes_settings(*HOME, "keep_archive", "keep_copies", "keep_reports", "keep_answers", "keep_rows", "master")
def maintain(
    flags: Flags,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would be done, and change nothing.")] = False,
) -> None:
    """Compact finished hours and days, remove what no table needs since a day, keep the logs short."""
    from batch.maintain.maintain import maintain as run_maintain
    from batch.maintain.retention import Retention
    from store.tables.handles import check_ingested

    settings = flags.open_to_change()
    saved: Counter[str] = Counter()

    def done(piece: "MaintenanceStep") -> None:
        sentence, more = _describe(piece, dry_run)
        saved.update(more)
        echo(sentence)

    retention = Retention(
        settings.keep_archive,
        settings.keep_rows,
        settings.keep_reports,
        settings.keep_answers,
        settings.keep_copies,
    )
    with as_yarn_expects(settings, "fruits-maintain"):
        home = settings.places()
        check_ingested(home)
        run_maintain(home, retention, notify, done, dry_run)
    if dry_run:
        echo("A dry run: nothing was changed.")
    else:
        echo(
            f"Done: {saved['files']:,} files fewer in the tables, {_mb(saved['freed'])} of storage freed, "
            f"{_mb(saved['replaced'])} replaced and freed after a day."
        )


def _describe(piece: "MaintenanceStep", dry_run: bool) -> tuple[str, dict[str, int]]:
    """A sentence about what was done or would be done, and what that saves: files, and bytes now and after a day."""
    from batch.maintain.maintain import Compaction, LogRemoval, OrphanRemoval

    match piece:
        case Compaction(group, size_bytes):
            hour = "" if group.hour is None else f", hour {group.hour:%H}"
            after = "one" if size_bytes is None else f"one of {_mb(size_bytes)}"
            before = f"{len(group.files):,} files of {_mb(group.size_bytes)}"
            sentence = f"{group.table.name} of {group.ingest_date}{hour}: {before} become {after}."
            return sentence, {"files": len(group.files) - 1, "replaced": group.size_bytes}
        case OrphanRemoval(table, removed):
            verb = "would be removed" if dry_run else "removed"
            count = f"{removed.count:,} files that nothing names since a day"
            return f"{table}: {count} {verb}, {_mb(removed.size_bytes)}.", {"freed": max(0, removed.size_bytes)}
        case LogRemoval(table, removed, left):
            log = f"{left.count:,} files, {_mb(left.size_bytes)}"
            sentence = f"{table}: its log has {log}; {max(0, removed.count):,} removed."
            return sentence, {"freed": max(0, removed.size_bytes)}
    kinds = {"archive": "photos", "reports": "pages", "answers": "answers"}
    expired, kind = piece.expired, kinds.get(piece.place, "rows")
    verb = "would be deleted" if dry_run else "deleted"
    count = f"{expired.count:,} {kind} are older than they are kept and {verb}"
    # Rows leave their files to a later clean-up.
    freed = {} if kind == "rows" else {"freed": expired.size_bytes}
    return f"{piece.place}: {count}, {_mb(expired.size_bytes)}.", freed


def _mb(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:,.2f} MB"
