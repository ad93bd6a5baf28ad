"""A report written where people find it: below the home, or in a file of their choice."""

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from features.errors import InvalidSetting
from features.image import Limits
from ops.report.data import Report, collect
from ops.report.page import render
from ops.report.photo_map import MOST_PHOTOS_ON_MAP
from ops.report.thumbnails import MOST_THUMBNAILS, ShownPhoto, thumbnails
from store.errors import HomeInUse
from store.home import Home
from store.objects.operations import delete_all, overwrite
from store.state.erasures import check_no_erasure_started, check_no_erasure_unfinished


@dataclass(frozen=True)
class WrittenReport:
    """Where a page is, as a URI, and how large it is."""

    uri: str
    size_bytes: int


def write_report(
    home: Home, limits: Limits, since: date | None, with_thumbnails: bool, file: Path | None, now: datetime
) -> WrittenReport:
    """Make the page of a home and write it to a file, or else to the home's reports under a name made of the time.

    With thumbnails the map has fewer photos, so that the page stays at a few MB. A page that an erasure overtook is
    deleted again. Raises NothingIngested before there are tables, HomeInUse when an erasure is at work or began
    meanwhile, InvalidSetting when the file cannot be written, StateDamaged, StorageRefused, StorageUnavailable.
    """
    erasures = check_no_erasure_unfinished(home)
    report = collect(home, since, MOST_THUMBNAILS if with_thumbnails else MOST_PHOTOS_ON_MAP)
    shown = _photos(report) if with_thumbnails else []
    page = render(report, thumbnails(home, shown, limits) if shown else {})
    check_no_erasure_started(home, erasures)
    key = f"{now:%Y-%m-%dT%H%M%SZ}.html"
    file = file.expanduser().absolute() if file else None
    if file is None:
        overwrite(home.reports, key, page)
        uri = (home.reports.directory / key).as_uri() if home.reports.is_local else home.reports.uri_of(key)
    else:
        try:
            file.write_bytes(page)
        except OSError as error:
            raise InvalidSetting(f"{file} cannot be written: {error.strerror}; choose another --output.") from error
        uri = file.as_uri()
    try:
        # One that begins later deletes the page itself.
        check_no_erasure_started(home, erasures)
    except HomeInUse:
        if file is None:
            delete_all(home.reports, [key])
        else:
            file.unlink(missing_ok=True)
        raise
    return WrittenReport(uri, len(page))


def _photos(report: Report) -> list[ShownPhoto]:
    """The photos of the map and of the galleries, each image once."""
    of_map = report.pca_map.photos if report.pca_map else []
    of_galleries = [photo for gallery in report.names.galleries for photo in gallery.photos]
    shown: list[ShownPhoto] = [*of_galleries, *of_map]
    return list({photo.image_id: photo for photo in shown}.values())
