"""Which ways to keep photos hold a promise, and what each costs a month."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import get_args

from bootstrap.aws.cost import Workload, estimate
from bootstrap.aws.keeping import Keeping, StorageClass
from bootstrap.aws.prices import Prices
from features.errors import InvalidSetting


@dataclass(frozen=True)
class Promise:
    """For how many days after its commit an original can be had, and its features can be made again."""

    original_days: float
    feature_days: float

    def __post_init__(self) -> None:
        if self.original_days < 0 or self.feature_days < 0:
            raise InvalidSetting("A promise is for 0 days or more.")


@dataclass(frozen=True)
class Way:
    """One way to keep photos: the settings that make it, and its dollars a month once it no longer grows.

    `needs_rule` when S3 has to move objects to another class, for which the stack has no rule.
    """

    keeping: Keeping
    settings: str
    dollars: float
    needs_rule: bool


def ways_to_keep(promise: Promise, workload: Workload, prices: Prices) -> list[Way]:
    """All ways that hold the promise, the cheapest first; the least that holds it, of each kind."""
    keepings = dict.fromkeys(_keepings(promise, workload.keeping))
    ways = [
        Way(
            keeping,
            _settings(keeping),
            estimate(replace(workload, keeping=keeping), prices).dollars,
            {keeping.archive_class, keeping.copy_class} != {"Standard"},
        )
        for keeping in keepings
    ]
    return sorted(ways, key=lambda way: (way.dollars, way.needs_rule))


def _keepings(promise: Promise, base: Keeping) -> Iterator[Keeping]:
    classes: tuple[StorageClass, ...] = get_args(StorageClass)
    # Features can be made again from copies, or from originals that are kept as long.
    for original_days in {promise.original_days, max(promise.original_days, promise.feature_days)}:
        has_copies = original_days < promise.feature_days
        for copy_class in classes if has_copies else classes[:1]:
            copies = replace(
                base,
                copy_days=promise.feature_days if has_copies else 0,
                copy_class=copy_class,
                archive_class="Standard",
            )
            yield replace(copies, original_days=original_days, archive_days=0)
            if original_days:
                for archive_class in classes:
                    yield replace(copies, original_days=0, archive_days=original_days, archive_class=archive_class)


def _settings(keeping: Keeping) -> str:
    copied, archived = keeping.copy_days > 0, keeping.archive_days > 0
    clean = "archive" if archived else "reduce" if copied else "delete"
    said = [f'clean = "{clean}"']
    if keeping.original_days:
        said.append(f'clean_after = "{keeping.original_days:g}d"')
    if archived:
        said += [f"{keeping.archive_days:g} days of archive/", *(["copies = true"] if copied else [])]
    if copied:
        said.append(f'keep_copies = "{keeping.copy_days:g}d"')
    for place, storage_class in (("archive/", keeping.archive_class), ("copies/", keeping.copy_class)):
        if storage_class != "Standard":
            said.append(f"{place} in {storage_class}")
    return ", ".join(said)
