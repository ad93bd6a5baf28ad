"""Which batches have photos without features of a network."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from functools import lru_cache, partial

from store.home import Home
from store.models.registry import described_featurizers
from store.state.refeaturized import BatchOfDay, lost_photos
from store.tables.files import DataFile, data_files, read_file
from store.tables.handles import TableHandles
from store.tables.schemas import FEATURE_ROWS

# Who adds features outside the stream. Each of its commits to `features` has a number, so that what was decided by an
# older look at the table is refused.
REFEATURIZING = "fruits-refeaturize"
_READS_AT_ONCE = 16

# How many rows of each network each batch has.
NetworkRows = Mapping[BatchOfDay, Mapping[str, int]]


def lacking(home: Home, tables: TableHandles, featurizer: str, with_lost: bool = False) -> dict[BatchOfDay, int]:
    """How many photos of which batches have a row of another featurizer and none of this one, the earliest day first.

    Batches count up to the last that all tables have. What `refeaturize` looked for in vain is left out, unless it is
    asked for `with_lost`. Nothing is read in a home that has had one network only, and of a day whose files tell that
    both of its networks have rows of the same photos. Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    # A batch is in `features` for a moment before it is in the other tables.
    last = tables.committed_to_all
    files = [file for file in data_files(tables[FEATURE_ROWS]) if file.batches is None or file.batches[0] <= last]
    if all(file.network == featurizer for file in files) or len(described_featurizers(home)) == 1:
        return {}
    of_days: dict[date, list[DataFile]] = defaultdict(list)
    for file in files:
        of_days[file.partition["ingest_date"]].append(file)
    lost: dict[BatchOfDay, int] = {}
    unsure: list[DataFile] = []
    for day, of_day in sorted(of_days.items()):
        lacks = _lacking_on(of_day, featurizer)
        if lacks == 0:
            continue
        noted = lost_photos(home, featurizer, day)
        if with_lost or lacks is None or lacks > sum(noted.values()):
            lost |= {(day, batch): photos for batch, photos in noted.items()}
            unsure += of_day
    counted: dict[BatchOfDay, int] = {}
    for batch, rows in sorted(rows_of_networks(home, unsure).items()):
        own, noted_of = rows.get(featurizer, 0), lost.get(batch, 0)
        others = max((count for network, count in rows.items() if network != featurizer), default=0)
        if not with_lost:
            counted[batch] = others - own - noted_of
        else:
            # Of a network out of use only the rows are left of photos that have no other: these are the lost ones.
            counted[batch] = noted_of if others < own else others - own
    return {batch: photos for batch, photos in counted.items() if photos > 0 and batch[1] <= last}


def rows_of_networks(home: Home, files: Sequence[DataFile]) -> NetworkRows:
    """How many rows of which featurizers the files have, by day and batch. Raises as `read_file`.

    What a file's name and its statistics do not tell is read once by a process.
    """
    rows: dict[BatchOfDay, Counter[str]] = defaultdict(Counter)
    with ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="batches") as pool:
        for file, counts in zip(files, pool.map(partial(rows_in_file, home), files), strict=True):
            for (batch, featurizer), count in counts.items():
                rows[file.partition["ingest_date"], batch][featurizer] += count
    return rows


def rows_in_file(home: Home, file: DataFile) -> Mapping[tuple[int, str], int]:
    """How many rows of which batch and featurizer a file has. Raises as `read_file`."""
    if file.network is not None and file.batches is not None and file.batches[0] == file.batches[1]:
        return {(file.batches[0], file.network): file.rows}
    return _counted(home, file.path)


@lru_cache(maxsize=10_000)
def _counted(home: Home, path: str) -> Mapping[tuple[int, str], int]:
    counts: Counter[tuple[int, str]] = Counter()
    for part in read_file(home, FEATURE_ROWS, path, ["batch", "featurizer"]):
        counts.update(zip(part["batch"].to_pylist(), part["featurizer"].to_pylist(), strict=True))
    return counts


def _lacking_on(files: Iterable[DataFile], featurizer: str) -> int | None:
    """How many photos of a day have a row of its one other network and none of this one; None if files do not tell."""
    of_networks: dict[str | None, list[DataFile]] = defaultdict(list)
    for file in files:
        of_networks[file.network].append(file)
    own = of_networks.pop(featurizer, [])
    if not of_networks:
        return 0
    if None in of_networks or len(of_networks) > 1:
        return None
    [others] = of_networks.values()
    # In a former release the batches after a switch have rows of the new network only: sums would hide the others.
    if own and (_span(own) is None or _span(own) != _span(others)):
        return None
    lacks = sum(file.rows for file in others) - sum(file.rows for file in own)
    return lacks if lacks >= 0 else None


def _span(files: Iterable[DataFile]) -> tuple[int, int] | None:
    batches = [file.batches for file in files]
    known = [ends for ends in batches if ends is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if len(known) == len(batches) else None
