"""Labels of days long past go, unless their image has photos on later days: then they move there."""

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime, timedelta
from typing import Any

from batch.labelling.images import find_images
from batch.maintain.retention import first_day_kept
from batch.maintain.vacuum import ObjectCount
from store.home import Home
from store.state.plans import AddedFile
from store.tables.commits import MAINTENANCE, move_rows
from store.tables.files import DataFile, data_files, read_file, write_file
from store.tables.handles import open_table
from store.tables.schemas import FEATURE_ROWS, LABEL_ROWS


def expire_labels(home: Home, keep: timedelta, now: datetime, dry_run: bool, say: Callable[[str], None]) -> ObjectCount:
    """Delete the labels of days that ended longer ago than `keep`; says how many rows. For after the photos' rows went.

    What was said of an image that has photos on later days goes over to these days first, as it was said, in the same
    transaction. Photos' rows are read only for images of which a later day does not hold every statement; `say` hears
    how far a long search for them is. Killed at any point, a replay does the same. Raises HomeInUse, StateDamaged,
    StorageRefused, StorageUnavailable.
    """
    before = first_day_kept(home, keep, now, dry_run)
    handle = open_table(home, LABEL_ROWS)
    files = data_files(handle)
    old = [file for file in files if file.partition["ingest_date"] < before]
    if handle is not None and old and not dry_run:
        later = [file for file in files if file.partition["ingest_date"] >= before]
        move_rows(home, LABEL_ROWS, handle, old, _carried_over(home, old, later, before, say), MAINTENANCE)
    return ObjectCount(sum(file.rows for file in old), sum(file.size_bytes for file in old))


def _carried_over(
    home: Home, old: Iterable[DataFile], later: Iterable[DataFile], before: date, say: Callable[[str], None]
) -> list[AddedFile]:
    """Files with what rows of old days say of images that have photos on later days, where it is not said yet."""
    said: dict[str, dict[datetime, dict[str, Any]]] = defaultdict(dict)
    for file in old:
        for rows in read_file(home, LABEL_ROWS, file.path, LABEL_ROWS.file_schema.names):
            for row in rows.to_pylist():
                said[row["image_id"]][row["said_at"]] = row
    said_on: dict[date, dict[str, set[datetime]]] = defaultdict(lambda: defaultdict(set))
    for file in later:
        for rows in read_file(home, LABEL_ROWS, file.path, ["image_id", "said_at"]):
            for image_id, said_at in zip(rows["image_id"].to_pylist(), rows["said_at"].to_pylist(), strict=True):
                said_on[file.partition["ingest_date"]][image_id].add(said_at)
    unheld = {
        image_id: statements
        for image_id, statements in said.items()
        if not any(statements.keys() <= of_day[image_id] for of_day in said_on.values() if image_id in of_day)
    }
    adds: list[AddedFile] = []
    for day, images in sorted(_photos_of(home, unheld, before, say).items()):
        carried = [
            row
            for image_id in sorted(images)
            for said_at, row in sorted(unheld[image_id].items())
            if said_at not in said_on[day][image_id]
        ]
        if carried:
            columns = {name: [row[name] for row in carried] for name in LABEL_ROWS.file_schema.names}
            adds.append(write_file(home, LABEL_ROWS, columns, {"ingest_date": day.isoformat()}))
    return adds


def _photos_of(home: Home, images: Collection[str], first: date, say: Callable[[str], None]) -> dict[date, set[str]]:
    """Of each day from `first` on, those of some images that have a photo then."""
    if not images:
        return {}
    files = [file for file in data_files(open_table(home, FEATURE_ROWS)) if file.partition["ingest_date"] >= first]
    photos: dict[date, set[str]] = defaultdict(set)
    for image_id, found in find_images(home, files, images, say).items():
        for day in found[image_id].days if found else ():
            photos[day].add(image_id)
    return photos
