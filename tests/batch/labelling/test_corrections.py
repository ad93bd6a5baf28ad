"""What a person writes in a spreadsheet is taken as meant, or refused with the line's number."""

import csv
import io
from codecs import BOM_UTF8

import pytest

from batch.labelling.corrections import Correction, LabelsRefused, correction_of, read_corrections

A, B = "a" * 64, "b" * 64


def _read(text: str | bytes) -> list[Correction]:
    content = text if isinstance(text, bytes) else text.encode()
    return read_corrections(content, "corrections.csv", "chosen")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_files_of_every_spreadsheet_say_the_same(separator: str, end: str, encoding: str) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, delimiter=separator, lineterminator=end)
    writer.writerows([["Image_ID", "predicted", "label", "origin"], [A, "x, y; z", " caf\u00e9 ", "random"]])
    writer.writerows([[B, "", "(None)", ""], ["", "", "", ""], ["C" * 64, "", "(undo)", "suspect"]])
    assert _read(buffer.getvalue().encode(encoding)) == [
        Correction(A, "caf\u00e9", "random", 2),
        Correction(B, None, "chosen", 3),
        Correction("c" * 64, None, "folder", 5),
    ]


def test_labels_are_composed_and_without_spaces_at_their_ends() -> None:
    assert correction_of(A, "\u00a0cafe\u0301 noir ", "suspect").label == "caf\u00e9 noir"


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (f"{A},", "line 2: its label is empty; write (none) for a photo that has none"),
        (f"{A},a/b", "line 2: the label 'a/b' has a slash"),
        (f'{A},"a\x07b"', "line 2: the label 'a\\x07b' has a control character"),
        (f"{A},{'é' * 128}", "line 2: the label 'éééééééééééééééééééé'… has more than 255 bytes."),
        (f"{A},kiwi,folder", "line 2: 'folder' is no origin; it is one of random, chosen, suspect"),
        ("1234567,kiwi", "line 2: '1234567' is no image_id; give its 64 hexadecimal digits, or the first 8 or more"),
        (",kiwi", "line 2: it names no image_id"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_line(line: str, words: str) -> None:
    with pytest.raises(LabelsRefused) as refused:
        _read(f"image_id,label,origin\n{line}\n{B},kiwi\n")
    assert str(refused.value).startswith(f"Nothing was changed: {words}")


def test_the_first_wrong_lines_are_named_and_the_others_counted() -> None:
    with pytest.raises(LabelsRefused) as refused:
        _read("image_id,label\n" + "\n".join(f"{A}," for _ in range(9)))
    assert str(refused.value) == (
        "Nothing was changed: lines 2, 3, 4, 5, 6 and 4 more: its label is empty; "
        "write (none) for a photo that has none, or leave the line out."
    )
    with pytest.raises(LabelsRefused) as refused:
        _read("image_id,label\n" + "\n".join(f"{A},a/{number}" for number in range(9)))
    assert "line 2: " in str(refused.value) and "line 4: " in str(refused.value)
    assert "line 5: " not in str(refused.value) and str(refused.value).endswith("; and 6 more.")


def test_one_photo_is_refused_without_a_line_and_may_be_a_file() -> None:
    with pytest.raises(LabelsRefused, match=r"^Nothing was changed: 'IMG_1.jpg' is no file here and no image_id; "):
        correction_of("IMG_1.jpg", "kiwi", "suspect")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "The first line of corrections.csv names no column image_id and no label"),
        (f"image,label\n{A},kiwi\n".encode(), "The first line of corrections.csv names no column image_id;"),
        (b"image_id,label\n,\n", "corrections.csv has no line below its header"),
        (BOM_UTF8 + b"image_id,label\n" + f"{A},caf\u00e9".encode("latin-1"), "is no text in UTF-8"),
        (f"image_id,label,label\n{A},kiwi,lime\n".encode(), "names the column label twice; keep one of them"),
        (f'image_id,label,note\n{A},kiwi,"5\n{B},lime,'.encode(), "no CSV file: unexpected end of data, in line 3"),
        (f'image_id,label\n{A},"{"k" * 200_000}"'.encode(), "corrections.csv is no CSV file: field larger than"),
    ],
)
def test_a_file_that_is_none_is_refused_in_one_sentence(content: bytes, words: str) -> None:
    with pytest.raises(LabelsRefused) as refused:
        _read(content)
    assert words in str(refused.value)
