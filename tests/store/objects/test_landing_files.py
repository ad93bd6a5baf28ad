"""What a walk of a landing on disk finds, what it leaves out, and what links may lead to."""

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from store.errors import StorageUnavailable
from store.objects import landing_files
from store.objects.landing import LandedObject, archive_or_delete, list_landed, list_pages
from store.objects.landing_files import SkippedFiles, reason_to_skip
from store.objects.location import StorageLocation
from store.objects.versions import delete_versions, list_versions, remove_empty_folders


@pytest.fixture
def landing(tmp_path: Path) -> Path:
    made = tmp_path / "home" / "landing"
    _write(made / "kiwi/real.jpg")
    (tmp_path / "home/models/featurizer").mkdir(parents=True)
    return made


def _write(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"photo")
    return path


def _keys(landing: Path, avoid: Sequence[Path] = (), skipped: SkippedFiles | None = None) -> list[str]:
    places = [StorageLocation.at(str(place)) for place in avoid]
    return [landed.key for page in list_pages(StorageLocation.at(str(landing)), places, skipped) for landed in page]


def test_linked_folders_are_read_after_the_real_ones_each_once(landing: Path, tmp_path: Path) -> None:
    _write(tmp_path / "elsewhere/two.jpg")
    _write(tmp_path / "elsewhere/inner/three.jpg")
    (landing / "b_link").symlink_to(tmp_path / "elsewhere")
    (landing / "a_link").symlink_to(tmp_path / "elsewhere/inner")
    (landing / "again").symlink_to(tmp_path / "elsewhere")
    (landing / "to-kiwi").symlink_to(landing / "kiwi")
    (tmp_path / "elsewhere/back").symlink_to(landing)
    (landing / "one.jpg").symlink_to(tmp_path / "elsewhere/two.jpg")
    skipped = SkippedFiles()

    keys = _keys(landing, skipped=skipped)

    assert keys == [
        "kiwi/real.jpg",
        "a_link/three.jpg",
        "b_link/two.jpg" if "b_link/two.jpg" in keys else "again/two.jpg",
        "one.jpg",
    ]
    assert (skipped.counts, skipped.examples) == ({"link": 1}, {"link": keys[2].split("/")[0] + "/back"})


def test_links_to_the_homes_own_places_to_folders_around_it_and_into_other_homes_are_not_followed(
    landing: Path, tmp_path: Path
) -> None:
    home, archive, other = tmp_path / "home", tmp_path / "archive", tmp_path / "other"
    _write(home / "state/batches/1.jpg")
    # In the home, but nothing of its own.
    (landing / "beside").symlink_to(_write(home / "elsewhere/four.jpg").parent)
    _write(archive / "old.jpg")
    _write(other / "landing/theirs.jpg")
    (other / "models/featurizer").mkdir(parents=True)
    for name, target in {
        "state": home / "state",
        "archive": archive,
        "above": tmp_path,
        "home": home,
        "other": other / "landing",
        "theirs.jpg": other / "landing/theirs.jpg",
        "nowhere": tmp_path / "gone",
        "loop": landing / "loop",
    }.items():
        (landing / name).symlink_to(target)
    (landing / "around").symlink_to(_write(tmp_path / "data/kiwi/one.jpg").parent.parent)
    (tmp_path / "data/inner/models/featurizer").mkdir(parents=True)
    _write(tmp_path / "data/inner/landing/two.jpg")
    skipped = SkippedFiles()

    assert _keys(landing, [home / "state", archive], skipped) == [
        *("kiwi/real.jpg", "around/kiwi/one.jpg", "beside/four.jpg"),
    ]
    assert skipped.counts == {"link": 6, "home": 1}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a link to another user")
def test_a_link_of_another_user_is_not_followed(landing: Path, tmp_path: Path) -> None:
    _write(tmp_path / "elsewhere/two.jpg")
    (landing / "theirs").symlink_to(tmp_path / "elsewhere")
    os.chown(landing / "theirs", 4711, 4711, follow_symlinks=False)

    assert _keys(landing) == ["kiwi/real.jpg"]


def test_a_link_that_does_not_answer_holds_up_nothing_behind_it(
    landing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _write(tmp_path / "elsewhere/two.jpg")
    (landing / "a_hangs").symlink_to(tmp_path / "elsewhere")
    (landing / "b_answers").symlink_to(_write(tmp_path / "more/three.jpg").parent)
    let_go = threading.Event()
    target = landing_files._target

    def hang(path: Path) -> Path:
        # As a network disk whose server is gone does: no call on it returns.
        if path.name == "a_hangs":
            let_go.wait(60)
        return target(path)

    monkeypatch.setattr(landing_files, "_target", hang)
    monkeypatch.setattr(landing_files, "LINK_ANSWERS_S", 0.3)
    skipped = SkippedFiles()

    keys = _keys(landing, skipped=skipped)

    assert keys == ["kiwi/real.jpg", "b_answers/three.jpg"]
    assert skipped.examples == {"unreadable": "a_hangs"}
    # An erasure must see all there is.
    with pytest.raises(StorageUnavailable, match=r"a_hangs: no answer came"):
        list(list_versions(StorageLocation.at(str(landing))))
    let_go.set()


def test_what_nobody_meant_to_drop_is_counted_with_an_example(landing: Path) -> None:
    names = {
        "hidden": [".hidden/x.jpg", "_temporary/x.jpg", "kiwi/_SUCCESS", "kiwi/.x.jpg"],
        "unfinished": ["kiwi/x.jpg.part", "kiwi/x.JPG.PART", "kiwi/x.crdownload", "kiwi/x.jpg._COPYING_"],
        "system": ["kiwi/@eaDir/x.jpg", "kiwi/Thumbs.db", "kiwi/desktop.ini", "kiwi/x_$folder$"],
    }
    for name in [name for of_kind in names.values() for name in of_kind]:
        _write(landing / name)
    skipped = SkippedFiles()

    assert _keys(landing, skipped=skipped) == ["kiwi/real.jpg"]
    assert skipped.counts == {"hidden": 4, "unfinished": 4, "system": 4}
    assert all(skipped.examples[kind] in of_kind for kind, of_kind in names.items())
    assert [reason_to_skip(key) for key in ("kiwi/IMG_1.jpg", "a/../b.jpg", "Thumbs.db.jpg")] == [None] * 3


def test_what_a_link_leads_to_is_never_cleared_away(landing: Path, tmp_path: Path) -> None:
    outside = _write(tmp_path / "elsewhere/two.jpg")
    (landing / "linked").symlink_to(outside.parent)
    (landing / "file.jpg").symlink_to(outside)
    place, archive = StorageLocation.at(str(landing)), StorageLocation.at(str(tmp_path / "home/archive"))
    found: dict[str, LandedObject] = {one.key: one for one in list_landed(place)}

    for key in ("linked/two.jpg", "file.jpg"):
        assert not archive_or_delete(place, archive, found[key], "delete")
        assert not archive_or_delete(place, archive, found[key], "archive")
    assert archive_or_delete(place, archive, found["kiwi/real.jpg"], "archive")
    assert (outside.exists(), (landing / "file.jpg").is_symlink()) == (True, True)


def test_an_erasure_deletes_what_links_lead_to_with_folders_and_links(landing: Path, tmp_path: Path) -> None:
    outside = _write(tmp_path / "elsewhere/anna/two.jpg")
    single = _write(tmp_path / "single.jpg")
    (landing / "linked").symlink_to(outside.parent.parent)
    (landing / "anna.jpg").symlink_to(single)
    (landing / "anna").symlink_to(_write(tmp_path / "more/three.jpg").parent)
    place = StorageLocation.at(str(landing))
    theirs = [version for version in list_versions(place) if "anna" in version.key]

    assert delete_versions(place, theirs) == 3
    remove_empty_folders(place, lambda folder: folder.endswith("anna"))

    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*anna*"))
    assert (left, outside.exists(), single.exists(), (tmp_path / "more").exists()) == ([], False, False, False)


def test_files_tell_when_they_can_first_have_been_seen(landing: Path) -> None:
    old_s = time.time() - 7 * 365 * 86400
    os.utime(landing / "kiwi/real.jpg", (old_s, old_s))

    [landed] = list_landed(StorageLocation.at(str(landing)))

    assert abs(landed.arrived_at.timestamp() - old_s) < 1
    assert abs(landed.visible_at.timestamp() - time.time()) < 60
