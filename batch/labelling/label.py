"""Write down what people say of photos: all of it in one commit, or nothing."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from batch.labelling.corrections import Correction, refused
from batch.labelling.images import ImageRows, find_images
from store.errors import HomeInUse
from store.home import Home
from store.objects.faults import UNKNOWN_OUTCOME, retry_storage
from store.state.erasures import check_no_erasure_unfinished
from store.tables.handles import create_table, open_table
from store.tables.labels import TAKEN_BACK, Origin, SaidLabels, Statement, add_statements, read_labels
from store.tables.schemas import LABEL_ROWS, table_location

# Others who label at the same moment; each try reads the image ids of all photos.
MOST_TRIES = 5
_DIGITS_SHOWN = 12


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
        images = find_images(home, {correction.image for correction in corrections}, say)
        statements = _statements(corrections, images)
        changes = _changes(statements, images, read_labels(home, handle))
        if handle is None or dry_run:
            break
        try:
            add_statements(home, handle, statements, said_by)
            break
        except HomeInUse:
            if not tries_left:
                raise
            say("Somebody else labelled photos meanwhile; looking again …")
    return changes


def _statements(corrections: Sequence[Correction], images: Mapping[str, Mapping[str, ImageRows]]) -> list[Statement]:
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
    return [Statement(image_id, one.label, one.origin, days_of[image_id]) for image_id, one in said.items()]


def _not_one(image: str, found: Sequence[str]) -> str:
    if not found:
        what = "image_id is" if len(image) == 64 else "image_id begins with"
        return f"no photo's {what} {image}; see the column image_id of photos, or wait until it is ingested"
    shown = ", ".join(image_id[: len(image) + 4] for image_id in found[:2])
    return f"{len(found)} images begin with {image}, like {shown}; give more of its digits"


def _changes(
    statements: Sequence[Statement], images: Mapping[str, Mapping[str, ImageRows]], said: SaidLabels
) -> list[Change]:
    folders: dict[str, str | None] = defaultdict(lambda: None)
    for found in images.values():
        folders.update({image_id: rows.folder_label for image_id, rows in found.items()})
    counting = dict(zip(said.image_ids.to_pylist(), said.labels.to_pylist(), strict=True))
    return [
        Change(
            one.image_id,
            counting.get(one.image_id, folders[one.image_id]),
            folders[one.image_id] if one.origin == TAKEN_BACK else one.label,
            one.origin,
        )
        for one in statements
    ]
