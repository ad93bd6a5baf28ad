"""What the report tells of names: how right they were, what they mix up, and the photos that a person should look at.

Each part runs the named query whose command the page shows, so page and command tell the same.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import duckdb

from ops.query.named_queries import NamedQuery, named_query
from ops.query.query import run_query, to_duckdb
from ops.report.photo_map import Row, shortened
from store.home import Home
from store.models.pca_models import PcaModel

# Half a year of weeks, from a Monday on, so that the first week is whole.
_WEEKS = 26
_MOST_PAIRS = 200
MOST_IN_GALLERY = 24
_DIGITS = 4


@dataclass(frozen=True)
class Told:
    """The rows of a named query, the command that gives them, and what it means that there are none."""

    command: str
    none: str
    rows: list[Row]


@dataclass(frozen=True)
class GalleryPhoto:
    """A photo that a person should look at, with what the query says of it and the command that acts on it.

    Of `label_confidence` and `novelty` a query tells one, both or none. `command_in_short` is for reading: its
    image_id is cut.
    """

    image_id: str
    source: str
    key: str
    label: str | None
    predicted: str | None
    confidence: float | None
    label_confidence: float | None
    novelty: float | None
    command: str
    command_in_short: str


@dataclass(frozen=True)
class Gallery:
    """The photos that one named query gives, in its order, and what a person does with them."""

    name: str
    title: str
    caption: str
    commands: list[str]
    none: str
    photos: list[GalleryPhoto]


@dataclass(frozen=True)
class Names:
    """What answers and names were; `no_names` says why the served version gives none, None if it does.

    Without names there is no confusion and no gallery. `accuracy` has a row for each week, `reliability` one for each
    tenth of the confidence that has answers.
    """

    no_names: str | None
    accuracy: Told
    reliability: Told
    confusion: Told | None
    galleries: list[Gallery]


@dataclass(frozen=True)
class _Kind:
    """A kind of gallery: the named query that gives its photos, and what the page says of them.

    `commands` act on all that the query gives, in place of showing it; `{query}` in them is the query's own command.
    The command of one photo takes `predicted` as the label if `suggests` says so.
    """

    query: str
    title: str
    caption: str
    suggests: bool = False
    commands: tuple[str, ...] = ()


_KINDS = (
    _Kind(
        "suspects",
        "Labels that may be wrong",
        "The served version believes these labels least. If it is right, copy the command below the photo; else leave "
        "the photo as it is.",
        suggests=True,
    ),
    _Kind(
        "unknown",
        "What the version does not know",
        "These photos resemble nothing that the served version was fitted on. Give those that show fruit their label, "
        "and the next refit learns it.",
    ),
    _Kind(
        "to_label",
        "What to label next",
        "A label for one of these teaches the next refit most. Take them all as a file: fill in its column `label`, "
        "delete the lines that you leave out, and give it back. Or copy the command of one photo.",
        commands=("{query} --format csv > to_label.csv", "fruits label --csv to_label.csv"),
    ),
)


def collect_names(
    connection: duckdb.DuckDBPyConnection, home: Home, served: PcaModel | None, since: date | None = None
) -> Names:
    """What the named queries tell on the views of this connection, from a day on, or else from their own default on.

    The accuracy goes half a year back by default. Raises InvalidQuery.
    """
    no_names = _why_no_names(served)
    half_a_year_ago = datetime.now(UTC).date() - timedelta(weeks=_WEEKS - 1)
    accuracy = _told(connection, "accuracy", since or half_a_year_ago - timedelta(days=half_a_year_ago.weekday()))
    # Those of single labels are for the command.
    weeks = Told(accuracy.command, accuracy.none, [row for row in accuracy.rows if row["label"] is None])
    reliability = _told(connection, "reliability", since)
    if no_names:
        return Names(no_names, weeks, reliability, None, [])
    confusion = _told(connection, "confusion", since, _MOST_PAIRS)
    pairs = [row | {name: shortened(row[name]) for name in ("label", "predicted")} for row in confusion.rows]
    for pair in pairs:
        del pair["confidence"]
    return Names(
        None,
        weeks,
        reliability,
        Told(confusion.command, confusion.none, pairs),
        [_gallery(connection, home, kind, since) for kind in _KINDS],
    )


def label_command(image_id: str, label: str | None) -> str:
    """The command that gives an image its label; a label that a terminal would not take as it is stays to be typed."""
    # A pasted control character is a key that is pressed, and a line break ends the command.
    is_typed = label is None or not label or label.startswith("-") or not label.isprintable()
    return f"fruits label {image_id} {'LABEL' if is_typed else shlex.quote(str(label))}"


def _why_no_names(served: PcaModel | None) -> str | None:
    if served is None:
        return "No version is served yet, so no photo has a name. Run `fruits refit --reproject`."
    if served.classifier is None:
        return f"Version {served.meta.version} names no fruit. {served.meta.no_names}"
    return None


def _gallery(connection: duckdb.DuckDBPyConnection, home: Home, kind: _Kind, since: date | None) -> Gallery:
    # A command that acts on all has the query's own limit; of these the page shows the first.
    told = _told(connection, kind.query, since, None if kind.commands else MOST_IN_GALLERY)
    photos = [_photo(home, row, kind.suggests) for row in told.rows[:MOST_IN_GALLERY]]
    commands = [command.replace("{query}", told.command) for command in kind.commands] or [told.command]
    return Gallery(kind.query, kind.title, kind.caption, commands, told.none, photos)


def _photo(home: Home, row: Row, suggests: bool) -> GalleryPhoto:
    label, predicted, image_id = row.get("label"), row.get("predicted"), row["image_id"]
    correct = predicted if suggests else None
    return GalleryPhoto(
        image_id=image_id,
        source=row["source"],
        key=shortened(row["source"].removeprefix(f"{home.landing.source}/")),
        label=None if label is None else shortened(label),
        predicted=None if predicted is None else shortened(predicted),
        confidence=_short(row.get("confidence")),
        label_confidence=_short(row.get("label_confidence")),
        novelty=_short(row.get("novelty")),
        command=label_command(image_id, correct),
        command_in_short=label_command(f"{image_id[:8]}…", shortened(correct) if correct else None),
    )


def _told(connection: duckdb.DuckDBPyConnection, name: str, since: date | None, limit: int | None = None) -> Told:
    query = named_query(name)
    asked = {"since": since.isoformat() if since else None, "limit": str(limit) if limit else None}
    given = {name: value for name, value in asked.items() if value and _has(query, name)}
    rows = run_query(connection, to_duckdb(query.sql), query.values(given)).to_pylist()
    return Told(_command(query, given), query.none, rows)


def _has(query: NamedQuery, name: str) -> bool:
    return any(parameter.name == name for parameter in query.parameters)


def _command(query: NamedQuery, given: Mapping[str, str]) -> str:
    return " ".join(["fruits query", query.name, *(f"--{name} {value}" for name, value in given.items())])


def _short(value: float | None) -> float | None:
    # A novelty is not a number where there was nothing to compare with.
    return None if value is None or math.isnan(value) else float(f"{value:.{_DIGITS}g}")
