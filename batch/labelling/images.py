"""Which photos an image has: the days of its rows, and what their folders say."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc

from store.home import Home
from store.tables.files import DataFile, read_file
from store.tables.schemas import FEATURE_ROWS

_READ_AT_ONCE = 8
_TOLD_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class ImageRows:
    """The photo rows of an image: their days, ascending, and the folder's label of one of the newest day's."""

    days: tuple[date, ...]
    folder_label: str | None


def find_images(
    home: Home, files: Sequence[DataFile], wanted: Collection[str], say: Callable[[str], None]
) -> dict[str, dict[str, ImageRows]]:
    """Of each wanted image_id, or beginning of one, the images that it fits, in some files of feature rows.

    An image can have photos on many days. Only the column image_id is read, and the labels of files that have one of
    the images. `say` hears how far a long search is. Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    by_length = {
        length: pa.array(sorted(beginning for beginning in wanted if len(beginning) == length), pa.string())
        for length in {len(beginning) for beginning in wanted}
    }
    rows_of: dict[str, dict[date, str | None]] = defaultdict(dict)
    told_at_s = time.monotonic()
    with ThreadPoolExecutor(_READ_AT_ONCE, thread_name_prefix="images") as pool:
        for number, (file, found) in enumerate(
            zip(files, pool.map(lambda file: _found_in(home, file, by_length), files), strict=True)
        ):
            for image_id, label in found.items():
                rows_of[image_id][file.partition["ingest_date"]] = label
            if time.monotonic() - told_at_s > _TOLD_EVERY_S:
                told_at_s = time.monotonic()
                say(f"Looked for the photos in {number + 1:,} of {len(files):,} files …")
    images: dict[str, dict[str, ImageRows]] = {beginning: {} for beginning in wanted}
    for image_id, labels in rows_of.items():
        days = tuple(sorted(labels))
        for length in by_length:
            if image_id[:length] in images:
                images[image_id[:length]][image_id] = ImageRows(days, labels[days[-1]])
    return images


def _found_in(home: Home, file: DataFile, by_length: Mapping[int, pa.StringArray]) -> dict[str, str | None]:
    """The wanted images of a file, and the label of one of the rows of each."""

    def is_wanted(rows: pa.RecordBatch) -> pa.BooleanArray:
        ids, mask = rows["image_id"], pa.repeat(pa.scalar(False), rows.num_rows)
        for length, beginnings in by_length.items():
            mask = pc.or_(mask, pc.is_in(pc.utf8_slice_codeunits(ids, 0, length), value_set=beginnings))
        return mask

    if not any(is_wanted(rows).true_count for rows in read_file(home, FEATURE_ROWS, file.path, ["image_id"])):
        return {}
    found: dict[str, str | None] = {}
    for rows in read_file(home, FEATURE_ROWS, file.path, ["image_id", "label"]):
        hits = rows.filter(is_wanted(rows))
        found.update(
            zip(hits["image_id"].to_pylist(), pc.utf8_normalize(hits["label"], form="NFC").to_pylist(), strict=True)
        )
    return found
