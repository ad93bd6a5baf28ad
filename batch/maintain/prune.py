"""Drop the projections of old PCA versions; their models stay, so each can be projected again."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from deltalake import DeltaTable

from store.errors import HomeInUse
from store.home import Home
from store.models.pca_models import current_models
from store.state.lease import hold_lease
from store.tables.commits import delete_rows
from store.tables.files import data_files
from store.tables.handles import open_table, unsettled_plans
from store.tables.projections import SWITCHING
from store.tables.schemas import PROJECTION_ROWS


@dataclass(frozen=True)
class Pruned:
    """The versions whose projections were dropped, and how many rows that were."""

    versions: tuple[int, ...]
    rows: int


def projected_rows(home: Home) -> dict[int, int]:
    """How many projections there are of each PCA version that has any, ascending."""
    return _rows_by_version(open_table(home, PROJECTION_ROWS))


def prune(home: Home, keep: int, say: Callable[[str], None]) -> Pruned:
    """Drop the projections of all versions but the newest `keep` that have some, the served and the next one.

    Their files stay, so that queries which have begun can read them. Replay drops nothing more. Raises HomeInUse when
    a batch under way is to be projected with one of them, or other work holds or has changed the tables, and
    StorageUnavailable; nothing is dropped then.
    """
    with hold_lease(home, "fruits models prune", say):
        # Opened before the pointer is read: a reprojection that has begun since makes the deletion fail.
        handle = open_table(home, PROJECTION_ROWS)
        rows = _rows_by_version(handle)
        kept = {*sorted(rows)[-keep:], *current_models(home).versions}
        dropped = tuple(version for version in rows if version not in kept)
        _check_not_planned(home, dropped)
        if handle is not None and dropped:
            predicate = f"pca_version IN ({', '.join(map(str, dropped))})"
            delete_rows(home, PROJECTION_ROWS, handle, predicate, SWITCHING)
    return Pruned(dropped, sum(rows[version] for version in dropped))


def _rows_by_version(handle: DeltaTable | None) -> dict[int, int]:
    rows: Counter[int] = Counter()
    for file in data_files(handle):
        rows[file.partition["pca_version"]] += file.rows
    return dict(sorted(rows.items()))


def _check_not_planned(home: Home, versions: tuple[int, ...]) -> None:
    for plan in unsettled_plans(home):
        planned = set(versions) & set(plan.pca_versions)
        if planned:
            raise HomeInUse(
                f"Batch {plan.batch} is planned with version {min(planned)} and not committed yet; "
                "let `fruits stream` finish it, and run this again."
            )
