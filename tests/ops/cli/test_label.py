"""What a person types to label photos, and what is answered."""

import hashlib
from datetime import date
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ops.cli.main import app
from ops.query.query import connect, run_query
from store.home import Home
from store.models.registry import publish_featurizer
from store.settings import load_settings
from tests.support.command_run import run_fruits
from tests.support.feature_rows import commit_features, feature_vectors

DAY = date(2026, 10, 5)
BODY = b"a photo's bytes"
PHOTO = hashlib.sha256(BODY).hexdigest()
OTHERS = [hashlib.sha256(bytes([number])).hexdigest() for number in range(14)]


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = load_settings(home=str(tmp_path / "home")).places()
    publish_featurizer(home, b"a network", "a test", "a test")
    columns = {"image_id": [PHOTO, *OTHERS], "label": ["pear"] * 14 + [None]}
    commit_features(home, 1, DAY, feature_vectors(15, 1), columns=columns)
    return home


def _label(home: Home, *arguments: str, stdin: bytes = b"") -> str:
    answer = CliRunner().invoke(app, ["label", *arguments, "--home", str(home.root.directory)], input=stdin)
    assert answer.exit_code == 0, answer.output
    return answer.stdout


def _refused(home: Home, *arguments: str) -> str:
    ended = run_fruits("label", *arguments, "--home", str(home.root.directory))
    assert (ended.returncode, ended.stdout) == (1, "")
    return " ".join(ended.stderr.split())


def _photos(home: Home) -> dict[str, tuple[str | None, str | None]]:
    found = run_query(connect(home), "SELECT image_id, label, label_origin FROM photos").to_pylist()
    return {row["image_id"]: (row["label"], row["label_origin"]) for row in found}


def test_a_photo_is_named_by_its_id_its_beginning_or_its_file(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "IMG_1.jpg"
    file.write_bytes(BODY)
    learns = "The next refit learns it: fruits refit --reproject\n"
    assert _label(home, PHOTO[:8].upper(), " kiwi ") == f"{PHOTO[:12]}: pear → kiwi\n{learns}"
    assert _photos(home)[PHOTO] == ("kiwi", "suspect")
    assert _label(home, str(file), "--none", "--origin", "random") == f"{PHOTO[:12]}: kiwi → no label\n{learns}"
    assert _photos(home)[PHOTO] == (None, "random")
    assert _label(home, PHOTO, "--undo") == f"{PHOTO[:12]}: no label → pear (the folder's)\n{learns}"
    assert _photos(home)[PHOTO] == ("pear", "folder")
    assert _label(home, PHOTO, "pear") == f"{PHOTO[:12]}: pear, as before\n{learns}"


def test_a_file_of_labels_is_told_in_short(home: Home, tmp_path: Path) -> None:
    lines = [f"{image_id},{'fig' if number else '(none)'}" for number, image_id in enumerate(OTHERS)]
    file = tmp_path / "corrections.csv"
    file.write_text("\n".join(["image_id,label", *lines]))
    dry = _label(home, "--csv", str(file), "--dry-run")
    assert dry.endswith("A dry run: nothing was changed.\n")
    assert set(_photos(home).values()) == {("pear", "folder"), (None, None)}
    told = _label(home, "--csv", str(file))
    assert told.splitlines() == [
        f"{OTHERS[0][:12]}: pear → no label",
        *(f"{image_id[:12]}: pear → fig" for image_id in OTHERS[1:10]),
        "… and 4 more.",
        "     12 photos: pear → fig",
        "      1 photo: pear → no label",
        "      1 photo: no label → fig",
        "The next refit learns it: fruits refit --reproject",
    ]
    assert _photos(home)[OTHERS[3]] == ("fig", "chosen")


def test_what_a_query_writes_goes_straight_back(home: Home) -> None:
    sql = (
        f"SELECT image_id, label AS folder, 'plum' AS label, 'random' AS origin FROM photos WHERE image_id = '{PHOTO}'"
    )
    asked = run_fruits("query", "--format", "csv", sql, "--home", str(home.root.directory))
    _label(home, "--csv", "-", stdin=asked.output)
    assert _photos(home)[PHOTO] == ("plum", "random")


def test_nobodys_name_is_kept_and_a_name_has_one_pseudonym(home: Home) -> None:
    _label(home, PHOTO, "kiwi", "--by", "Eve 4711")
    _label(home, OTHERS[0], "kiwi", "--by", "Eve 4711")
    _label(home, OTHERS[1], "kiwi")
    said_by = run_query(connect(home), "SELECT said_by FROM labels ORDER BY said_at")["said_by"].to_pylist()
    assert said_by[0] == said_by[1] and said_by[0] is not None and said_by[2] is None
    assert all(b"4711" not in path.read_bytes() for path in home.root.directory.rglob("*") if path.is_file())


def test_one_sentence_says_what_is_wrong(home: Home, tmp_path: Path) -> None:
    (tmp_path / "wrong.csv").write_text(f"image_id,label\n{PHOTO},kiwi\n{PHOTO},lime\n{OTHERS[0]},\n")
    (tmp_path / "known.csv").write_text(f"image_id,label\n{PHOTO},kiwi\n{PHOTO},lime\n{'f' * 64},fig\n")
    one_of = "fruits: Give an image, and one of LABEL, --none and --undo; or give --csv FILE."
    assert _refused(home) == _refused(home, PHOTO) == _refused(home, PHOTO, "kiwi", "--none") == one_of
    assert (
        _refused(home, PHOTO, "--csv", "x.csv") == "fruits: Give an image and its label, or --csv FILE, and not both."
    )
    assert "--by is empty" in _refused(home, PHOTO, "kiwi", "--by", " ")
    assert "missing.csv cannot be read: No such file or directory" in _refused(home, "--csv", "missing.csv")
    assert "'IMG_9.jpg' is no file here and no image_id; give its 64 hexadecimal digits" in _refused(
        home, "IMG_9.jpg", "kiwi"
    )
    assert "s3://b/IMG.jpg is not on this machine: copy it here" in _refused(home, "s3://b/IMG.jpg", "kiwi")
    assert "Nothing was changed: line 4: its label is empty" in _refused(home, "--csv", str(tmp_path / "wrong.csv"))
    both = _refused(home, "--csv", str(tmp_path / "known.csv"))
    assert f"line 3: it says another thing of {PHOTO[:12]} than line 2; keep one of the two" in both
    assert f"line 4: no photo's image_id is {'f' * 64}" in both
    assert set(_photos(home).values()) == {("pear", "folder"), (None, None)}
