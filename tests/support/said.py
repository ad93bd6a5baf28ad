"""Statements of people about images, as `fruits label` writes them, without its look for their days."""

import hashlib
from collections.abc import Iterable
from datetime import date

from store.home import Home
from store.tables.handles import open_table
from store.tables.labels import Origin, Statement, add_statements
from store.tables.schemas import LABEL_ROWS


def image_of(batch: int, number: int) -> str:
    """The image_id of a row of `commit_features`."""
    return hashlib.sha256(f"{batch}/{number}".encode()).hexdigest()


def say(home: Home, images: Iterable[str], label: str | None, *days: date, origin: Origin = "suspect") -> None:
    """Say of each image that it has this label, None for none; it has photos on these days."""
    handle = open_table(home, LABEL_ROWS)
    assert handle is not None
    add_statements(home, handle, [Statement(image_id, label, origin, days) for image_id in images])


def take_back(home: Home, images: Iterable[str], *days: date) -> None:
    """Let the folders' labels count again."""
    say(home, images, None, *days, origin="folder")
