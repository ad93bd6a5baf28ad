"""The command by which people say what is on photos."""

import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from features.errors import InvalidSetting
from ops.cli.command import HOME, Flags, takes_settings
from ops.cli.console import echo, notify
from ops.cli.photos.files import check_files

if TYPE_CHECKING:
    from batch.labelling.corrections import Correction
    from batch.labelling.label import Change

_SHOWN = 10


@takes_settings(*HOME)
def label(
    flags: Flags,
    image: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMAGE]",
            help="An image_id, its first 8 digits or more, or a photo on this machine.",
            show_default=False,
        ),
    ] = None,
    name: Annotated[
        str | None, typer.Argument(metavar="[LABEL]", help="What it shows, like kiwi.", show_default=False)
    ] = None,
    none: Annotated[bool, typer.Option("--none", help="It has no label.")] = False,
    undo: Annotated[
        bool, typer.Option("--undo", help="Take back what was said: its folder's label counts again.")
    ] = False,
    csv: Annotated[
        str | None,
        typer.Option(
            "--csv", metavar="FILE", help="Lines with image_id, label and perhaps origin; - is standard input."
        ),
    ] = None,
    origin: Annotated[
        Literal["random", "chosen", "suspect"] | None,
        typer.Option("--origin", help="How the photo came to be looked at. Default: suspect; with --csv: chosen."),
    ] = None,
    by: Annotated[
        str | None, typer.Option("--by", metavar="NAME", help="Who says it; a pseudonym of the name is kept.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tell what would change, and say nothing.")] = False,
) -> None:
    """Say what is on photos; it counts before their folders' labels, and the next refit learns it."""
    ways = [value for value in (name is not None, none, undo) if value]
    if csv is not None and (image is not None or ways):
        raise InvalidSetting("Give an image and its label, or --csv FILE, and not both.")
    if csv is None and (image is None or len(ways) != 1):
        raise InvalidSetting("Give an image, and one of LABEL, --none and --undo; or give --csv FILE.")
    if by is not None and not by.strip():
        raise InvalidSetting("--by is empty; give a name, or leave it out.")

    from batch.labelling.corrections import NO_LABEL, UNDONE, correction_of, read_corrections
    from batch.labelling.label import label_photos
    from store.state.labellers import pseudonym_of
    from store.tables.handles import check_ingested

    corrections: Sequence[Correction]
    if csv is not None:
        corrections = read_corrections(*_read(csv), origin or "chosen")
    else:
        said = NO_LABEL if none else UNDONE if undo else name or ""
        corrections = [correction_of(_image_id(image or ""), said, origin or "suspect")]
    home = flags.open_to_change().places()
    check_ingested(home)
    said_by = pseudonym_of(home, by) if by is not None and not dry_run else None
    _tell(label_photos(home, corrections, said_by, notify, dry_run))
    echo("A dry run: nothing was changed." if dry_run else "The next refit learns it: fruits refit --reproject")


def _image_id(image: str) -> str:
    """The image_id, or its beginning, that somebody means by it or by a photo's file."""
    check_files([image])
    if not Path(image).is_file():
        return image.strip()
    return hashlib.sha256(_bytes_of(image)).hexdigest()


def _read(file: str) -> tuple[bytes, str]:
    """The content of a file, and what to call it."""
    if file == "-":
        return sys.stdin.buffer.read(), "Standard input"
    check_files([file])
    return _bytes_of(file), file


def _bytes_of(file: str) -> bytes:
    try:
        return Path(file).read_bytes()
    except OSError as error:
        raise InvalidSetting(f"{file} cannot be read: {error.strerror or error}.") from error


def _tell(changes: "Sequence[Change]") -> None:
    for change in changes[:_SHOWN]:
        echo(f"{change.image_id[:12]}: {_words(change)}")
    if len(changes) > _SHOWN:
        echo(f"… and {len(changes) - _SHOWN:,} more.")
        counts = Counter(_words(change) for change in changes)
        for words, count in counts.most_common(_SHOWN):
            echo(f"{count:>7,} {'photo' if count == 1 else 'photos'}: {words}")
        if len(counts) > _SHOWN:
            rest = counts.total() - sum(count for _, count in counts.most_common(_SHOWN))
            echo(f"{rest:>7,} photos: other changes")


def _words(change: "Change") -> str:
    before, after = change.before or "no label", change.after or "no label"
    undone = " (the folder's)" if change.origin == "folder" else ""
    return f"{after}, as before{undone}" if before == after else f"{before} → {after}{undone}"
