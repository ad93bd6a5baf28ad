"""What the report tells of names, in a real browser: it is what the page's commands give, and they can be copied."""

import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from deltalake import DeltaTable, write_deltalake
from typer.testing import CliRunner

from features.classifier import squared_distances
from ops.cli.main import app
from ops.report.data import collect
from ops.report.names import MOST_IN_GALLERY, label_command
from ops.report.written import write_report
from store.home import Home
from store.objects.location import StorageLocation
from store.settings import load_settings
from tests.support.named_home import KINDS, classifier_of, commit_named, photos_of, publish
from tests.support.pictures import encoded, pixels
from tests.support.report_home import LIMITS, opened

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.xdist_group("browser")

TODAY = datetime.now(UTC).date()
NOW = datetime.now(UTC)
HOSTILE = "it's </script><script>window.ran=1</script>; $(touch x)"
NAMED = [*KINDS, HOSTILE]
PHONE = {"width": 360, "height": 740}
DESKTOP = {"width": 1280, "height": 900}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """60 photos of a fit, three of them in a wrong folder; then answers of two weeks, and six strange photos.

    Of the photos with an answer some lie between two kinds, so that confidences differ and some are wrong.
    """
    home = load_settings(home=str(tmp_path_factory.mktemp("names") / "home")).places()
    kinds = NAMED * 15
    seen, labels = photos_of(kinds, 1), list(kinds)
    labels[0], labels[1], labels[3] = "lime", HOSTILE, "plum"
    classifier = classifier_of(seen, labels)
    ordinary = squared_distances(classifier, photos_of(kinds, 2)).min(axis=1)
    model = publish(home, 1, replace(classifier, strange_distances=np.sort(ordinary)), last_batch=1)
    commit_named(home, 1, TODAY - timedelta(days=20), seen, labels, [model])
    between = (photos_of(NAMED * 10, 3) + 1.2 * photos_of((NAMED[1:] + NAMED[:1]) * 10, 4)) / 2
    commit_named(home, 2, TODAY - timedelta(days=8), between, NAMED * 10, [model], model)
    commit_named(home, 3, TODAY - timedelta(days=1), photos_of(NAMED * 5, 5), NAMED * 5, [model], model)
    commit_named(home, 4, TODAY, photos_of(["carrot"] * 6, 6), [None] * 6, [model], model)
    return home


@pytest.fixture(scope="module")
def page_uri(home: Home) -> str:
    return write_report(home, LIMITS, None, False, None, NOW).uri


@pytest.fixture
def desktop(browser: "Browser", page_uri: str) -> Iterator["Page"]:
    with opened(browser, page_uri, viewport=DESKTOP, permissions=["clipboard-read", "clipboard-write"]) as page:
        yield page


def _asked(home: Home, command: str) -> list[dict[str, Any]]:
    """The rows that a command of the page gives."""
    words = shlex.split(command)
    assert words[0] == "fruits"
    answer = CliRunner().invoke(app, [*words[1:], "--home", home.root.uri, "--format", "json"])
    assert answer.exit_code == 0, answer.output
    return [json.loads(line) for line in answer.stdout.splitlines()]


@pytest.mark.parametrize("since", [None, TODAY - timedelta(days=10)])
def test_each_section_is_what_its_command_gives(home: Home, since: date | None) -> None:
    names = collect(home, since).names
    accuracy = [row for row in _asked(home, names.accuracy.command) if row["label"] is None]
    assert [row | {"week": row["week"].isoformat()} for row in names.accuracy.rows] == accuracy
    assert len(accuracy) >= 2
    assert names.reliability.rows == _asked(home, names.reliability.command)
    assert names.confusion is not None
    pairs = [(row["label"], row["predicted"], row["photos"]) for row in _asked(home, names.confusion.command)]
    assert [(row["label"], row["predicted"], row["photos"]) for row in names.confusion.rows] == pairs
    assert [photos for *_, photos in pairs] == sorted((photos for *_, photos in pairs), reverse=True)
    assert [gallery.name for gallery in names.galleries] == ["suspects", "unknown", "to_label"]
    for gallery in names.galleries:
        command = gallery.commands[0].partition(" --format csv >")[0]
        found = [row["image_id"] for row in _asked(home, command)]
        assert found or since
        assert [photo.image_id for photo in gallery.photos] == found[:MOST_IN_GALLERY]
    commands = [names.accuracy.command, names.reliability.command, names.confusion.command]
    assert all((f"--since {since}" in command) == (since is not None) for command in commands[1:])


def test_accuracy_and_reliability_tell_their_values(desktop: "Page", home: Home) -> None:
    names = collect(home).names
    for section, rows in (("accuracy", names.accuracy.rows), ("reliability", names.reliability.rows)):
        desktop.locator(f"#{section} summary").click()
        told = desktop.locator(f"#{section} tr").all_text_contents()[1:]
        assert len(told) == len(rows)
        for text, row in zip(told, rows, strict=True):
            assert f"{row['answers']} answer" in text
            assert f"{row['low']:g} to {row['high']:g} %" in text
            assert f"{row['correct']}, {row['percent']:g} %" in text
        desktop.locator(f"#{section} .plot > svg").press("End")
        assert f"{rows[-1]['answers']} answer" in str(desktop.locator(f"#{section} .tip").text_content())
        assert desktop.locator(f"#{section} text.of").count() >= min(2, len(rows))


def test_a_pair_that_is_mixed_up_is_found_and_shown_on_the_map(desktop: "Page", home: Home) -> None:
    confusion = collect(home).names.confusion
    assert confusion is not None
    worst = confusion.rows[0]
    pairs = desktop.locator("#confusion .pair")
    assert pairs.first.locator("bdi").all_text_contents() == [worst["label"], worst["predicted"]]
    assert f"{worst['photos']} of {worst['of_label']}" in str(pairs.first.text_content())
    pairs.first.click()
    shown = desktop.locator("#map .labels button[aria-pressed='true'] bdi").all_text_contents()
    assert sorted(shown) == sorted({worst["label"], worst["predicted"]})
    assert desktop.locator("#map .mark.dim").count() > 0


def test_a_suspect_is_shown_with_the_command_that_puts_it_right(desktop: "Page", home: Home) -> None:
    (suspects,) = (gallery for gallery in collect(home).names.galleries if gallery.name == "suspects")
    wrong = [photo for photo in suspects.photos if (photo.label, photo.predicted) == (HOSTILE, "lime")]
    assert wrong
    card = desktop.locator("#gallery-suspects .card", has_text=wrong[0].image_id[:8])
    assert card.locator("strong").text_content() == f"lime instead of {HOSTILE}"
    card.locator(".command").click()
    desktop.get_by_text("copied").wait_for()
    assert desktop.evaluate("navigator.clipboard.readText()") == f"fruits label {wrong[0].image_id} lime"
    cards = desktop.locator("#gallery-suspects .card")
    before = cards.count()
    desktop.locator("#gallery-suspects").get_by_role("button", name=re.compile("Show .* more")).click()
    assert before < cards.count() == len(suspects.photos)


def test_a_gallery_shows_the_photos_that_still_stand(browser: "Browser", tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    kinds = list(KINDS) * 10
    seen, labels = photos_of(kinds, 1), list(kinds)
    labels[0], labels[1] = "plum", "kiwi"
    model = publish(home, 1, classifier_of(seen, labels), last_batch=1)
    commit_named(home, 1, TODAY, seen, labels, [model], model)
    body = encoded(pixels(1), "JPEG")
    (home.landing.directory / "kiwi").mkdir(parents=True)
    (home.landing.directory / "kiwi" / "1-0.jpg").write_bytes(body)
    for table in (home.features, home.projections):
        _rename_image(table, "/1-0.jpg", hashlib.sha256(body).hexdigest())

    written = write_report(home, LIMITS, None, True, None, NOW)

    with opened(browser, written.uri, viewport=PHONE) as page:
        cards = page.locator("#gallery-suspects .card")
        there, gone = cards.filter(has_text="kiwi/1-0.jpg"), cards.filter(has_text="kiwi/1-1.jpg")
        (picture,) = there.locator("img").all()
        assert str(picture.get_attribute("src")).startswith("data:image/jpeg;base64,")
        assert gone.locator("img").count() == 0
        assert gone.locator(".gone").count() == 1
    # The map shows the same photo, and the page holds its picture once.
    assert Path(written.uri.removeprefix("file://")).read_bytes().count(b"data:image/jpeg") == 1


def _rename_image(place: StorageLocation, ending: str, image_id: str) -> None:
    table = DeltaTable(str(place.directory))
    rows = table.to_pyarrow_table()
    ids = [
        image_id if source.endswith(ending) else known
        for source, known in zip(rows["source"].to_pylist(), rows["image_id"].to_pylist(), strict=True)
    ]
    at = rows.schema.get_field_index("image_id")
    write_deltalake(table, rows.set_column(at, rows.schema.field(at), [ids]), mode="overwrite")


def test_where_the_clipboard_is_closed_the_whole_command_is_marked(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport=DESKTOP) as page:
        page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error('closed')); }")
        command = page.locator("#gallery-unknown .card .command").first
        command.click()
        page.get_by_text("copy it by hand").wait_for()
        assert page.evaluate("String(getSelection())") == command.get_attribute("title")


@pytest.mark.parametrize("label", ["kiwi", HOSTILE, "a b", "$HOME", "`id`", "пёс", "*"])
def test_a_shell_takes_a_label_as_it_is(label: str) -> None:
    command = label_command("f" * 64, label).replace("fruits", "printf '%s\\n'", 1)
    said = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True).stdout
    assert said.splitlines() == ["label", "f" * 64, label]


@pytest.mark.parametrize("label", [None, "", "--csv", "kiwi\nrm -r", "a\x1b[201~b", "a\u202eb", "\x15x"])
def test_a_label_that_a_terminal_would_not_take_as_it_is_stays_to_be_typed(label: str | None) -> None:
    assert label_command("f" * 64, label) == f"fruits label {'f' * 64} LABEL"


def test_the_map_shows_what_tells_labels_apart(desktop: "Page") -> None:
    def places() -> np.ndarray[Any, Any]:
        marks = "[...document.querySelectorAll('#map .mark')].map((mark) => mark.getAttribute('transform'))"
        return np.array([re.findall(r"[-\d.]+", place) for place in desktop.evaluate(marks)], float)

    axes = desktop.locator("#map .plot > svg > text")
    assert "first component" in str(axes.first.text_content())
    as_pca = places()
    desktop.get_by_role("button", name="Zoom in", exact=True).click()
    desktop.get_by_role("button", name="Discriminants").press("Enter")
    assert desktop.evaluate("document.activeElement.textContent") == "Discriminants"
    assert desktop.get_by_role("button", name="Reset the zoom").is_disabled()
    assert "first discriminant" in str(axes.first.text_content())
    assert np.abs(places() - as_pca).max() > 20
    desktop.locator("#map .plot > svg").press("ArrowRight")
    assert desktop.locator("#map .near button").count() == 5
    desktop.get_by_role("button", name="PCA", exact=True).click()
    assert np.array_equal(places(), as_pca)


def test_the_page_fits_a_phone_and_its_fingers(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport=PHONE, has_touch=True, is_mobile=True) as page:
        more = page.get_by_role("button", name=re.compile("Show .* more"))
        while more.count():
            more.first.tap()
        for summary in page.locator("summary").all():
            summary.tap()
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        small = page.evaluate(
            "[...document.querySelectorAll('button, a, input, summary')].filter((node) => node.offsetParent)"
            ".map((node) => [node.textContent, node.getBoundingClientRect().height]).filter(([, high]) => high < 44)"
        )
        assert small == []
        for link in page.locator("#contents a").all():
            assert page.locator(str(link.get_attribute("href"))).count() == 1


def test_a_version_without_names_says_so_once(browser: "Browser", tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    model = publish(home, 1, None)
    commit_named(home, 1, TODAY, photos_of(KINDS, 1), KINDS, [model])
    with opened(browser, write_report(home, LIMITS, None, True, None, NOW).uri, viewport=PHONE) as page:
        said = page.locator("#confusion .none").text_content()
        assert str(said).startswith("Version 1 names no fruit. ")
        assert page.locator("[id^=gallery-]").count() == page.locator("#reliability").count() == 0
        assert "answers come once fruits refit --reproject names fruit" in str(
            page.locator("#accuracy .none").text_content()
        )
        assert page.locator("#map .switch").count() == 0
