"""What people say of photos, as they write it: one at a time, or in the lines of a CSV file."""

import csv
import io
import re
import unicodedata
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import get_args

from features.errors import FruitsError
from store.objects.location import to_nfc
from store.tables.labels import TAKEN_BACK, Origin

# In the place of a label. A folder is hardly called so, and a spreadsheet takes neither for a formula.
NO_LABEL = "(none)"
UNDONE = "(undo)"
# What people can give as an origin; the one of an undo follows from its label.
ORIGINS: tuple[Origin, ...] = tuple(origin for origin in get_args(Origin) if origin != TAKEN_BACK)
LEAST_DIGITS = 8
# As long as a folder's name on a disk. A longer one is a cell of another column.
LONGEST_LABEL_BYTES = 255

_IMAGE = re.compile(f"[0-9a-f]{{{LEAST_DIGITS},64}}")
# Countries with a decimal comma separate by a semicolon.
_SEPARATORS = (",", ";", "\t")
_PROBLEMS_TOLD = 3
_LINES_TOLD = 5
_LABEL_SHOWN = 20


class LabelsRefused(FruitsError):
    """Not all of what somebody said of photos can be taken; nothing was changed."""


@dataclass(frozen=True, slots=True)
class Correction:
    """What somebody says of an image: its label, None for none. The origin `folder` takes back what was said before.

    `image` is an image_id or its first characters; `line` is the line of the file, None without a file.
    """

    image: str
    label: str | None
    origin: Origin
    line: int | None = None


def correction_of(image: str, label: str, origin: Origin, line: int | None = None) -> Correction:
    """What somebody says by writing this image and this label. Raises LabelsRefused."""
    problem = _problem_of(image, label, origin, "file here and no image_id")
    if problem:
        raise refused([(line, problem)])
    return _correction(image, label, origin, line)


def read_corrections(content: bytes, name: str, origin: Origin) -> list[Correction]:
    """The lines of a CSV file with the columns image_id, label and perhaps origin; other columns are ignored.

    `origin` is that of lines that name none. Spreadsheets may have put a byte order mark before it, separated by
    semicolons or tabs, and added lines without content. Raises LabelsRefused, which names the first wrong lines.
    """
    corrections: list[Correction] = []
    problems: list[tuple[int | None, str]] = []
    for line, image, label, said_origin in _lines(_text(content, name), name):
        of_line = said_origin or origin
        problem = _problem_of(image, label, of_line)
        if problem:
            problems.append((line, problem))
        else:
            corrections.append(_correction(image, label, next(o for o in ORIGINS if o == of_line), line))
    if problems:
        raise refused(problems)
    if not corrections:
        raise LabelsRefused(f"{name} has no line below its header; nothing was changed.")
    return corrections


def refused(problems: Sequence[tuple[int | None, str]]) -> LabelsRefused:
    """What to raise for problems of lines: the first few, each with its first lines, and how many more there are."""
    lines_of: dict[str, list[int]] = {}
    for line, problem in problems:
        lines_of.setdefault(problem, []).extend([] if line is None else [line])
    told = [f"{_lines_told(lines)}{problem}" for problem, lines in islice(lines_of.items(), _PROBLEMS_TOLD)]
    more = len(lines_of) - len(told)
    return LabelsRefused(f"Nothing was changed: {'; '.join(told)}{f'; and {more:,} more' if more else ''}.")


def _lines_told(lines: Sequence[int]) -> str:
    if not lines:
        return ""
    more = len(lines) - _LINES_TOLD
    first = ", ".join(map(str, lines[:_LINES_TOLD]))
    return f"line{'s' if len(lines) > 1 else ''} {first}{f' and {more:,} more' if more > 0 else ''}: "


def _correction(image: str, label: str, origin: Origin, line: int | None) -> Correction:
    label = _clean(label)
    # A spreadsheet may begin a cell with a capital.
    if label.lower() == UNDONE:
        return Correction(image.lower(), None, TAKEN_BACK, line)
    return Correction(image.lower(), None if label.lower() == NO_LABEL else label, origin, line)


def _problem_of(image: str, label: str, origin: str, meant: str = "image_id") -> str | None:
    if not _IMAGE.fullmatch(image.lower()):
        return (
            f"{image!r} is no {meant}; give its 64 hexadecimal digits, or the first {LEAST_DIGITS} or more of them"
            if image
            else "it names no image_id"
        )
    label = _clean(label)
    if not label:
        return f"its label is empty; write {NO_LABEL} for a photo that has none, or leave the line out"
    if len(label.encode("utf-8", "surrogatepass")) > LONGEST_LABEL_BYTES:
        return f"the label {label[:_LABEL_SHOWN]!r}… has more than {LONGEST_LABEL_BYTES} bytes"
    if "/" in label:
        return f"the label {label!r} has a slash, which no folder's name can have"
    if any(unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp") for character in label):
        return f"the label {label!r} has a control character"
    if origin not in ORIGINS:
        return f"{origin!r} is no origin; it is one of {', '.join(ORIGINS)}"
    return None


def _clean(label: str) -> str:
    # Spaces at the ends are a slip, and nobody would see that they make another label.
    return to_nfc(label.strip())


def _text(content: bytes, name: str) -> str:
    try:
        return content.decode("utf-16" if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)) else "utf-8-sig")
    except UnicodeDecodeError:
        raise LabelsRefused(f"{name} is no text in UTF-8; save it as “CSV UTF-8”. Nothing was changed.") from None


def _lines(text: str, name: str) -> Iterator[tuple[int, str, str, str]]:
    """The number, image, label and origin of each line that has content."""
    header_line = text.partition("\n")[0]
    separator = max(_SEPARATORS, key=header_line.count)
    # A quotation mark that nothing closes would take the lines below it for one cell, perhaps of an ignored column.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        header = [cell.strip().lower() for cell in next(reader, [])]
        if missing := [column for column in ("image_id", "label") if column not in header]:
            raise LabelsRefused(
                f"The first line of {name} names no column {' and no '.join(missing)}; write a header with image_id "
                "and label, and perhaps origin. Nothing was changed."
            )
        if twice := [column for column in ("image_id", "label", "origin") if header.count(column) > 1]:
            raise LabelsRefused(
                f"The first line of {name} names the column {twice[0]} twice; keep one of them. Nothing was changed."
            )
        places = [
            header.index(column) if column in header else len(header) for column in ("image_id", "label", "origin")
        ]
        for row in reader:
            cells = [cell.strip() for cell in row]
            if any(cells):
                cells += [""] * (len(header) + 1 - len(cells))
                image, label, origin = (cells[place] if place < len(header) else "" for place in places)
                yield reader.line_num, image, label, origin
    except csv.Error as error:
        raise LabelsRefused(
            f"{name} is no CSV file: {error}, in line {reader.line_num}. Nothing was changed."
        ) from None
