"""A report written where people find it: below the home, or in a file of their choice."""

from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

from features.errors import InvalidSetting
from features.home import Home
from features.image import Limits
from features.objects import overwrite
from ops.report.data import MOST_PHOTOS_ON_MAP, collect
from ops.report.page import render
from ops.report.thumbnails import MOST_THUMBNAILS, thumbnails


@dataclass(frozen=True)
class WrittenReport:
    """Where a page is, as a URI, and how large it is."""

    uri: str
    size_bytes: int


def write_report(
    home: Home, limits: Limits, since: date | None, with_thumbnails: bool, file: Path | None, now: datetime
) -> WrittenReport:
    """Make the page of a home and write it to a file, or else to the home's reports under a name made of the time.

    With thumbnails the map has fewer photos, so that the page stays at a few MB.
    Raises InvalidQuery when the home has no tables yet, InvalidSetting when the file cannot be written, StateDamaged,
    StorageRefused, StorageUnavailable.
    """
    report = collect(home, since, MOST_THUMBNAILS if with_thumbnails else MOST_PHOTOS_ON_MAP)
    shown = report.pca_map.photos if with_thumbnails and report.pca_map else []
    page = render(report, thumbnails(home, shown, limits) if shown else {})
    if file is None:
        key = f"{now:%Y-%m-%dT%H%M%SZ}.html"
        overwrite(home.reports, key, page)
        place = home.reports
        return WrittenReport((place.directory / key).as_uri() if place.is_local else place.uri_of(key), len(page))
    try:
        file.expanduser().write_bytes(page)
    except OSError as error:
        raise InvalidSetting(f"{file} cannot be written: {error.strerror}; choose another --output.") from error
    return WrittenReport(file.expanduser().absolute().as_uri(), len(page))
