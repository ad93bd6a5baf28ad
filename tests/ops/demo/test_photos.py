from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from itertools import islice

import numpy as np
import pytest
from PIL import Image, ImageOps

from ops.demo import photos as painter
from ops.demo.photos import FEWEST_FILES, MUG, DemoFile, demo_files


@pytest.fixture(scope="module")
def files() -> list[DemoFile]:
    return list(demo_files(FEWEST_FILES, seed=7))


@pytest.fixture(scope="module")
def decoded(files: list[DemoFile]) -> list[Image.Image | None]:
    return [_decoded(file.body) for file in files]


@pytest.fixture(scope="module")
def photos(decoded: list[Image.Image | None]) -> list[Image.Image]:
    return [photo for photo in decoded if photo is not None]


@pytest.fixture(scope="module")
def broken(files: list[DemoFile], decoded: list[Image.Image | None]) -> list[DemoFile]:
    return [file for file, photo in zip(files, decoded, strict=True) if photo is None]


def test_exactly_four_files_are_broken_each_in_its_own_way(broken: list[DemoFile]) -> None:
    order = [b"", b"\xff\xd8", b"Th", b"\x89P"]
    empty, truncated, text, corrupt = sorted(broken, key=lambda file: order.index(file.body[:2]))
    assert empty.body == b"" and empty.key.endswith(".jpg")
    assert truncated.body.startswith(b"\xff\xd8") and not truncated.body.endswith(b"\xff\xd9")
    assert text.body.isascii() and text.key.endswith(".jpg")
    assert corrupt.body.endswith(b"IEND\xaeB`\x82") and corrupt.key.endswith(".png")


def test_corrupt_png_fails_its_checksum(broken: list[DemoFile]) -> None:
    (corrupt,) = (file.body for file in broken if file.key.endswith(".png"))
    with pytest.raises(SyntaxError, match="broken PNG"):
        Image.open(BytesIO(corrupt)).verify()


def test_keys_differ_start_with_a_label_and_include_awkward_names(files: list[DemoFile]) -> None:
    keys = [file.key for file in files]
    assert len(set(keys)) == len(keys) == FEWEST_FILES
    assert len({key.split("/")[0] for key in keys}) >= 8
    assert sum(" " in key and "+" in key for key in keys) == 1
    assert sum("é" in key for key in keys) == 1
    assert sum("🍓" in key for key in keys) == 1
    assert sum("/2026/10/" in key for key in keys) == 1


def test_photos_come_in_every_format_size_and_orientation(photos: list[Image.Image]) -> None:
    assert {photo.format for photo in photos} == {"JPEG", "PNG", "WEBP", "HEIF"}
    assert {tuple(sorted(photo.size)) for photo in photos} == {(1200, 1600), (3024, 4032)}
    assert {photo.getexif()[0x0112] for photo in photos if photo.format == "JPEG"} == {1, 3, 6, 8}


def test_jpegs_say_when_where_and_with_what_they_were_taken(photos: list[Image.Image]) -> None:
    for photo in photos:
        if photo.format != "JPEG":
            continue
        exif, position = photo.getexif(), photo.getexif().get_ifd(0x8825)
        assert exif[0x010F] and exif[0x0110]
        assert exif[0x0132].startswith("2026:10:")
        north, east = (sum(float(part) / 60**i for i, part in enumerate(position[tag])) for tag in (2, 4))
        assert 36 < north < 60 and position[1] == "N"
        assert -10 < (east if position[3] == "E" else -east) < 25


def test_applying_the_orientation_gives_the_upright_picture() -> None:
    shots = painter._plan(FEWEST_FILES, 7)
    shot = next(shot for shot in shots if shot.orientation == 8 and not shot.flaw)
    stored = [Image.open(BytesIO(painter._photo(replace(shot, orientation=turn)))) for turn in (1, 3, 6, 8)]
    assert [picture.size for picture in stored] == [(1200, 1600), (1200, 1600), (1600, 1200), (1600, 1200)]
    # Shrunk, because the noise stays with the sensor while the scene turns.
    upright, *turned = (np.asarray(ImageOps.exif_transpose(picture).reduce(10), dtype=float) for picture in stored)
    for picture in turned:
        assert np.abs(picture - upright).mean() < 1


def test_default_plan_mixes_labels_formats_and_sizes() -> None:
    shots = [shot for shot in painter._plan(80, 2026) if not shot.flaw]
    assert len(shots) == 76
    assert min(Counter(shot.shows for shot in shots if shot.shows != MUG).values()) >= 6
    assert Counter(shot.long_side_px for shot in shots)[4032] == 3
    formats = Counter(shot.format for shot in shots)
    assert formats["PNG"] == formats["WEBP"] == formats["HEIF"] == 4


def test_one_photo_is_in_a_wrong_folder_and_one_without_a_folder_shows_no_fruit() -> None:
    shots = painter._plan(80, 2026)
    places = [place for place, shot in enumerate(shots) if shot.key.split("/")[0] != shot.shows]
    wrong, mug = (shots[place] for place in places)
    assert places[0] < 40 and places[1] >= 64 and not wrong.flaw and not mug.flaw
    assert wrong.key.split("/")[0] in painter.FRUITS
    assert mug.shows == MUG and "/" not in mug.key and painter._photo(mug)


def test_seed_alone_decides_every_byte(files: list[DemoFile]) -> None:
    assert list(islice(demo_files(FEWEST_FILES, seed=7), 2)) == files[:2]
    assert next(demo_files(FEWEST_FILES, seed=8)) not in files


def test_files_are_drawn_one_at_a_time() -> None:
    many = demo_files(1_000)
    assert isinstance(many, Iterator)
    assert next(many).key


def test_too_few_files_are_refused() -> None:
    with pytest.raises(ValueError, match="12"):
        next(demo_files(FEWEST_FILES - 1))


def _decoded(body: bytes) -> Image.Image | None:
    try:
        photo = Image.open(BytesIO(body))
        photo.load()
    except OSError:
        return None
    return photo
