"""Which part of a key is the label: a layout by its name, or a regular expression, one of both."""

from pathlib import Path

import pytest

from features.errors import InvalidSetting
from store.objects.landing import key_group
from store.settings import load_settings

OWN = r"^(?P<subject>[^/]+)/(?P<label>[^/]+)/"


@pytest.mark.parametrize(
    ("key", "first", "last"),
    [
        ("kiwi/1.jpg", "kiwi", "kiwi"),
        ("Training/Apple Braeburn/0_100.jpg", "Training", "Apple Braeburn"),
        ("Test/2026/p\u00eache/1.jpg", "Test", "p\u00eache"),
        ("1.jpg", None, None),
        ("kiwi//1.jpg", "kiwi", None),
    ],
)
def test_a_layout_tells_which_folder_is_the_label(key: str, first: str | None, last: str | None) -> None:
    assert key_group(load_settings().key_pattern_in_force, key, "label") == first
    assert key_group(load_settings(layout="first-folder").key_pattern_in_force, key, "label") == first
    assert key_group(load_settings(layout="last-folder").key_pattern_in_force, key, "label") == last


def test_a_key_pattern_of_the_file_counts_as_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "fruits.toml").write_text(f"key_pattern = '{OWN}'\n")
    monkeypatch.chdir(tmp_path)
    assert load_settings().key_pattern_in_force == OWN


def test_a_pattern_that_finds_nothing_is_a_pattern_too() -> None:
    assert key_group(load_settings(key_pattern="").key_pattern_in_force, "kiwi/1.jpg", "label") is None


def test_a_layout_and_a_key_pattern_exclude_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = "^layout and key_pattern exclude each other; set one of them$"
    with pytest.raises(InvalidSetting, match=refused):
        load_settings(layout="first-folder", key_pattern=OWN)
    (tmp_path / "fruits.toml").write_text('layout = "last-folder"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FRUITS_KEY_PATTERN", OWN)
    with pytest.raises(InvalidSetting, match=refused):
        load_settings()


def test_a_flag_beats_what_environment_and_file_say_of_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fruits.toml").write_text('layout = "last-folder"\n')
    monkeypatch.chdir(tmp_path)
    assert load_settings(key_pattern=OWN).key_pattern_in_force == OWN
    monkeypatch.setenv("FRUITS_LAYOUT", "first-folder")
    assert load_settings(key_pattern=OWN).key_pattern_in_force == OWN
    monkeypatch.delenv("FRUITS_LAYOUT")
    (tmp_path / "fruits.toml").write_text(f"key_pattern = '{OWN}'\n")
    assert key_group(load_settings(layout="last-folder").key_pattern_in_force, "a/b/c.jpg", "label") == "b"


def test_a_layout_that_there_is_not_is_refused() -> None:
    with pytest.raises(InvalidSetting, match="layout: Input should be 'first-folder' or 'last-folder'"):
        load_settings(layout="middle-folder")
