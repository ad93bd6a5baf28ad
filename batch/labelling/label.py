"""Write down what people say of photos: all of it in one commit, or nothing."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from batch.labelling.corrections import Correction, refused
from batch.labelling.images import ImageRows, find_images
from store.errors import HomeInUse
from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, retry_storage
from store.state.erasures import check_no_erasure_unfinished
from store.tables.files import DataFile, data_files
from store.tables.handles import create_table, open_table
from store.tables.labels import RANDOM, TAKEN_BACK, Origin, SaidLabels, Statement, add_statements, read_labels
from store.tables.schemas import FEATURE_ROWS, LABEL_ROWS, table_location

# Others who label at the same moment; each try reads the image ids of all photos.
MOST_TRIES = 5
_DIGITS_SHOWN = 12

_Counting = Mapping[str, tuple[str | None, Origin]]


@dataclass(frozen=True, slots=True)
class Change:
    """What counted of an image, and what counts once it is said; a label is None for none."""

    image_id: str
    before: str | None
    after: str | None
    origin: Origin


def label_photos(
    home: Home,
    corrections: Sequence[Correction],
    said_by: str | None,
    say: Callable[[str], None],
    dry_run: bool = False,
) -> list[Change]:
    """Say of each image what its correction says, in one commit; returns what that changes, in the given order.

    `said_by` is a pseudonym. Killed at any point, all of it is said or nothing; a replay says it once more, which
    changes nothing that counts. If somebody else says something meanwhile, the images are looked up again. A dry run
    writes nothing. Raises LabelsRefused for images that have no photo or are several, and for two labels of one image;
    HomeInUse while an erasure is unfinished; StateDamaged, StorageRefused, StorageUnavailable.
    """
    for tries_left in reversed(range(MOST_TRIES)):
        handle = open_table(home, LABEL_ROWS)
        if handle is None and not dry_run:
            uri = table_location(home, LABEL_ROWS).uri
            retry_storage(f"create the table {uri}", partial(create_table, home, LABEL_ROWS), again=UNKNOWN_OUTCOME)
            handle = open_table(home, LABEL_ROWS)
        # After the table was opened: an erasure that begins later commits to it first, so what was looked up before
        # its rows went is refused.
        check_no_erasure_unfinished(home)
        files = data_files(open_table(home, FEATURE_ROWS))
        images = find_images(home, files, {correction.image for correction in corrections}, say)
        counting = _counting(read_labels(home, handle))
        statements = _statements(corrections, images, counting)
        changes = _changes(statements, images, counting)
        if handle is None or dry_run:
            break
        try:
            add_statements(home, handle, statements, said_by)
            say_of_later_photos(home, files, statements, said_by, say)
            break
        except HomeInUse:
            if not tries_left:
                raise
            say("Somebody else labelled photos meanwhile; looking again …")
    return changes


def say_of_later_photos(
    home: Home,
    files: Sequence[DataFile],
    statements: Sequence[Statement],
    said_by: str | None,
    say: Callable[[str], None],
) -> None:
    """Say the same of days on which images got their first photo since somebody looked at `files`.

    A refit that read such a day before the statements came would find no other sign of them. What somebody else said
    meanwhile stays, and then nobody is named for it. Raises as `label_photos`; a replay says it once more.
    """
    looked_at, days_of = {file.path for file in files}, {one.image_id: set(one.days) for one in statements}
    handle = open_table(home, LABEL_ROWS)
    later = [file for file in data_files(open_table(home, FEATURE_ROWS)) if file.path not in looked_at]
    found = find_images(home, later, days_of, say) if later else {}
    new_days = {
        image_id: tuple(sorted(set(rows[image_id].days) - days_of[image_id]))
        for image_id, rows in found.items()
        if image_id in rows
    }
    if handle is None or not any(new_days.values()):
        return
    counting = _counting(read_labels(home, handle))
    again = [
        Statement(image_id, *counting.get(image_id, (None, TAKEN_BACK)), days)
        for image_id, days in new_days.items()
        if days
    ]
    ours = {(one.image_id, one.label, one.origin) for one in statements}
    is_ours = ours.issuperset((one.image_id, one.label, one.origin) for one in again)
    add_statements(home, handle, again, said_by if is_ours else None)


def _counting(said: SaidLabels) -> _Counting:
    """The label and the origin that count, of each image that something is said of."""
    columns = (said.image_ids, said.labels, said.origins)
    return {
        image_id: (label, origin) for image_id, label, origin in zip(*(c.to_pylist() for c in columns), strict=True)
    }


def _statements(
    corrections: Sequence[Correction], images: Mapping[str, Mapping[str, ImageRows]], counting: _Counting
) -> list[Statement]:
    problems: list[tuple[int | None, str]] = []
    said: dict[str, Correction] = {}
    for correction in corrections:
        found = images[correction.image]
        if len(found) != 1:
            problems.append((correction.line, _not_one(correction.image, sorted(found))))
            continue
        [image_id] = found
        first = said.setdefault(image_id, correction)
        if (first.label, first.origin) != (correction.label, correction.origin):
            shown = image_id[:_DIGITS_SHOWN]
            problems.append(
                (correction.line, f"it says another thing of {shown} than line {first.line}; keep one of the two")
            )
    if problems:
        raise refused(problems)
    days_of = {image_id: rows.days for found in images.values() for image_id, rows in found.items()}
    # A photo that was drawn by lot speaks for others whatever is said of it later.
    drawn = {image_id for image_id, (_, origin) in counting.items() if origin == RANDOM}
    origins = {
        image_id: RANDOM if image_id in drawn and one.origin != TAKEN_BACK else one.origin
        for image_id, one in said.items()
    }
    return [Statement(image_id, one.label, origins[image_id], days_of[image_id]) for image_id, one in said.items()]


def _not_one(image: str, found: Sequence[str]) -> str:
    if not found:
        what = "image_id is" if len(image) == 64 else "image_id begins with"
        return f"no photo's {what} {image}; see the column image_id of photos, or wait until it is ingested"
    shown = ", ".join(image_id[: len(image) + 4] for image_id in found[:2])
    return f"{len(found)} images begin with {image}, like {shown}; give more of its digits"


def _changes(
    statements: Sequence[Statement], images: Mapping[str, Mapping[str, ImageRows]], counting: _Counting
) -> list[Change]:
    folders = {image_id: rows.folder_label for found in images.values() for image_id, rows in found.items()}
    return [
        Change(
            one.image_id,
            counting[one.image_id][0] if one.image_id in counting else folders[one.image_id],
            folders[one.image_id] if one.origin == TAKEN_BACK else one.label,
            one.origin,
        )
        for one in statements
    ]
