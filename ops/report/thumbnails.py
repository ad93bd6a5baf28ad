"""Small pictures of photos that still stand or have a copy, with nothing of the files but their pixels."""

import base64
import hashlib
import io
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Protocol

from PIL import Image

from features.image import Limits
from features.isolation import IsolatedDecoder
from features.rejects import Rejected
from ops.query.query import connect, run_query
from store.home import Home
from store.objects.landing import LandedObject, archived_name, fetch, stat_object
from store.objects.location import StorageLocation
from store.tables.copies import PhotoRow, read_copies

# On the map; some 4 kB each in the page.
MOST_THUMBNAILS = 500

_SIDE_PX = 112
_QUALITY = 70
# Photos in memory at a time.
_AT_ONCE = 8


class ShownPhoto(Protocol):
    """A photo that the page shows somewhere."""

    @property
    def image_id(self) -> str: ...

    @property
    def source(self) -> str: ...


def thumbnails(home: Home, photos: Sequence[ShownPhoto], limits: Limits) -> dict[str, str]:
    """JPEGs of 112 pixels a side as data URIs, by image id, of photos with a copy, or in the landing or the archive.

    Of a file only bytes with the hash in the table are shown, so never what took a photo's place. Each is decoded in a
    process of its own. Raises StateDamaged, StorageRefused, StorageUnavailable.
    """
    sql = f"SELECT DISTINCT {', '.join(PhotoRow.__dataclass_fields__)} FROM features WHERE source IN (SELECT unnest(?))"
    found = run_query(connect(home), sql, [[photo.source for photo in photos]])
    rows = [PhotoRow(**row) for row in found.to_pylist()]
    # By source, the version that was ingested: the archive's names carry it.
    etags = {row.source: row.etag for row in rows}
    of_photos = {(photo.source, photo.image_id) for photo in photos}
    copies = read_copies(home, [row for row in rows if (row.source, row.image_id) in of_photos])
    shown: dict[str, str] = {}

    def bodies() -> Iterator[tuple[str, bytes]]:
        yield from ((row.image_id, copy) for row, copy in copies)
        yield from _bodies(home, [photo for photo in photos if photo.image_id not in shown], etags)

    with IsolatedDecoder(limits) as decoder:
        for image_id, body in bodies():
            try:
                pixels = decoder.decode(body, limits).pixels
            except Rejected:
                # It passed once; limits can have become tighter since.
                continue
            jpeg = io.BytesIO()
            small = Image.fromarray(pixels).resize((_SIDE_PX, _SIDE_PX), Image.Resampling.LANCZOS)
            small.save(jpeg, "JPEG", quality=_QUALITY)
            shown[image_id] = f"data:image/jpeg;base64,{base64.b64encode(jpeg.getvalue()).decode()}"
    return shown


def _bodies(home: Home, photos: Sequence[ShownPhoto], etags: Mapping[str, str]) -> Iterator[tuple[str, bytes]]:
    def body(photo: ShownPhoto) -> bytes | None:
        if (known := home.landing_of(photo.source)) is None:
            return None
        landing, key = known
        archived = archived_name(LandedObject(key, 0, etags.get(photo.source, ""), datetime.min.replace(tzinfo=UTC)))
        for found in (_read(landing, key), _read(home.archive, archived)):
            if found is not None and hashlib.sha256(found).hexdigest() == photo.image_id:
                return found
        return None

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="thumbnails") as pool:
        for start in range(0, len(photos), _AT_ONCE):
            some = photos[start : start + _AT_ONCE]
            for photo, found in zip(some, pool.map(body, some), strict=True):
                if found is not None:
                    yield photo.image_id, found


def _read(place: StorageLocation, key: str) -> bytes | None:
    found = stat_object(place, key)
    try:
        return None if found is None else fetch(place, found)
    except Rejected:
        # Replaced at this moment.
        return None
