"""The report, opened and used in a real browser: its figures are the home's, and hostile names stay text."""

import base64
import hashlib
import io
import json
import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import obstore
import pytest
from deltalake import DeltaTable, write_deltalake
from PIL import Image
from typer.testing import CliRunner

from features.pca import Pca
from ops.cli.main import app
from ops.report.data import collect
from ops.report.written import write_report
from store.errors import HomeInUse, NothingIngested
from store.home import Home
from store.objects.landing import LandedObject, archived_name
from store.settings import load_settings
from store.state.erasures import begin_erasure, finish_erasure
from store.state.plans import BatchCounters
from store.tables.commits import append_once
from store.tables.copies import COPYING
from store.tables.files import write_file
from store.tables.handles import create_copies, create_tables
from store.tables.schemas import COPY_ROWS
from tests.support.feature_rows import commit_features, feature_vectors, fitted
from tests.support.pictures import encoded, pixels
from tests.support.report_home import LIMITS, MONDAY, add_day, finish, opened, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

# One browser and one home for all of them, where tests run in several processes.
pytestmark = pytest.mark.xdist_group("browser")

HOSTILE = [
    "</script><script>window.ran=1;alert(1)</script>",
    '"><img src=x onerror="window.ran=1">',
    "<svg/onload=window.ran=1>",
    "'); window.ran=1; ('",
    "<!-- data -->",
    "\u202egnp.iwik\u2066",
    "🥝👩🏽‍🌾 лимон ليمون",
    "line one\nline two\u2028line three",
    "k" * 300,
    r"caf\xe9",
    "__proto__",
    "",
]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Three days: 12 photos with hostile names, 30 kiwis and 2 limes, 2 photos without a label; 3 rejects."""
    home = load_settings(home=str(tmp_path_factory.mktemp("report") / "home")).places()
    add_day(home, 1, HOSTILE, MONDAY, rejects=3)
    add_day(home, 2, ["kiwi"] * 30 + ["lime"] * 2, MONDAY + timedelta(days=1))
    add_day(home, 3, [None, None], MONDAY + timedelta(days=2))
    serve(home, 4, [_turned_with_three_components(), fitted()])
    finish(home, 1, MONDAY, BatchCounters(photos=100, decode_s=8, infer_s=2, wall_s=10, slots=2))
    finish(home, 2, MONDAY + timedelta(seconds=5), BatchCounters(photos=100, decode_s=8, infer_s=2, wall_s=10, slots=2))
    return home


def _turned_with_three_components() -> Pca:
    """A PCA whose first direction lies between the first one of `fitted` and one that `fitted` has not kept."""
    kept = fitted().components
    other = np.random.default_rng(3).normal(size=kept.shape[1])
    other -= kept.T @ (kept @ other)
    first = (kept[0] + other / np.linalg.norm(other)) / np.sqrt(2)
    return replace(fitted(), components=np.stack([first, *kept[1:3]]))


@pytest.fixture(scope="module")
def page_uri(home: Home) -> str:
    return write_report(home, LIMITS, None, False, None, MONDAY).uri


def test_hostile_labels_are_shown_as_text_and_nothing_of_them_runs(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport={"width": 360, "height": 740}) as page:
        shown = page.locator("#map button bdi").all_text_contents()
        short = [label if len(label) <= 160 else f"{label[:79]}…{label[-80:]}" for label in HOSTILE if label]
        assert sorted(shown) == sorted([*short, "kiwi", "lime"])
        assert page.locator("#map button em").all_text_contents() == ["no label", "empty label"]
        assert page.evaluate("document.documentElement.scrollWidth") == 360
        for place in range(page.locator("#map svg .mark").count()):
            page.locator("#map .plot > svg").press(["ArrowRight", "ArrowDown", "ArrowLeft", "ArrowUp"][place % 4])
            assert page.evaluate("document.documentElement.scrollWidth") == 360
        for label in HOSTILE[:3]:
            page.get_by_label("Find a label").fill(label)
            assert page.locator("#map .labels bdi").first.text_content() == label
            page.get_by_label("Find a label").press("Enter")


def test_the_policy_stops_what_an_escape_forgotten_would_let_in(
    browser: "Browser", page_uri: str, tmp_path: Path
) -> None:
    whole = Path(page_uri.removeprefix("file://")).read_text()
    let_in = '<script>window.ran=1</script><img src="http://127.0.0.1:9/x" onerror="window.ran=1"><a onclick="x()">'
    broken = tmp_path / "broken.html"
    broken.write_text(whole.replace("<main>", f"{let_in}<main>"))
    fetched: list[str] = []
    page = browser.new_page()
    page.on("requestfinished", lambda request: fetched.append(request.url))
    page.goto(broken.as_uri())
    assert page.locator("#headline .value").first.text_content() == "46"
    assert page.evaluate("window.ran") is None
    assert fetched == [broken.as_uri()]
    page.close()


def test_the_report_tells_how_many_answers_were_right(browser: "Browser", tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    answers = {"label": ["kiwi", "kiwi", "lime", None], "answer": ["kiwi", "lime", "lime", "kiwi"]}
    columns = {**answers, "answer_version": [1] * 4}
    commit_features(home, 1, datetime.now(UTC).date(), feature_vectors(4, 1), columns=columns)
    uri = write_report(home, LIMITS, None, False, None, datetime.now(UTC)).uri
    with opened(browser, uri, viewport={"width": 360, "height": 740}) as page:
        figure = page.locator("#headline .figure", has_text="Answers right")
        assert figure.locator(".value").text_content() == "66.7 %"
        assert figure.locator(".more").text_content() == "of 3 in 28 days; 20.8 % to 93.9 % likely"
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_the_headline_and_the_tables_tell_what_the_home_holds(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport={"width": 1440, "height": 900}) as page:
        figures = dict(
            zip(
                page.locator("#headline .name").all_text_contents(),
                page.locator("#headline .value").all_text_contents(),
                strict=True,
            )
        )
        assert figures == {
            "Photos": "46",
            "Rejects": "3",
            "Wait, median": "2 s",
            # 200 photos in the 15 s in which one of the overlapping batches was at work.
            "Pace at work": "13/s",
            "PCA served": "version 2",
            "Answers right": "–",
            "Span": "2 d",
        }
        assert page.locator("#headline .more").nth(3).text_content() == "67 % of the cores' limit, 20/s"
        page.locator("#flow summary").click()
        page.locator("#flow table").wait_for()
        cells = page.locator("#flow td").all_text_contents()
        photos, rejects = cells[1::3], cells[2::3]
        assert sum(map(int, photos)) == 46
        assert sum(map(int, rejects)) == 3
        assert page.locator("#reasons .bars").text_content() == "empty3"


def test_charts_tell_their_values_to_mouse_and_keys(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport={"width": 1440, "height": 900}) as page:
        chart = page.locator("#flow .plot > svg")
        chart.press("Home")
        first = page.locator("#flow .tip")
        assert "photos12" in str(first.text_content())
        assert "rejects3" in str(first.text_content())
        assert "photos 12, rejects 3" in str(page.locator("#flow .said").text_content())
        chart.press("Escape")
        assert not first.is_visible()
        for section in ("flow", "latency", "pace", "scree", "cumulative", "turn", "shift"):
            page.locator(f"#{section} .plot > svg").hover()
            assert page.locator(f"#{section} .tip").is_visible()
        page.mouse.move(0, 0)
        assert not page.locator("#shift .tip").is_visible()


def test_a_photo_is_told_by_hovering_clicking_tapping_and_keys(browser: "Browser", page_uri: str, home: Home) -> None:
    shown = collect(home).pca_map
    assert shown is not None
    keys = {photo.key for photo in shown.photos}

    def told(page: "Page") -> str | None:
        tip = page.locator("#map .tip")
        return str(tip.locator("dd").first.text_content()) if tip.is_visible() else None

    with opened(browser, page_uri, viewport={"width": 1440, "height": 900}) as page:
        marks = page.locator("#map .mark")
        marks.last.hover(force=True)
        hovered = told(page)
        assert hovered in keys
        marks.last.click(force=True)
        page.mouse.move(0, 0)
        assert told(page) == hovered
        chart = page.locator("#map .plot > svg")
        reached = set()
        for key in ("ArrowUp", "ArrowLeft", "ArrowDown", "ArrowRight"):
            chart.press(key)
            reached.add(told(page))
        assert {hovered} < reached | {hovered} <= keys
        chart.press("Escape")
        assert told(page) is None
    with opened(browser, page_uri, viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True) as page:
        page.locator("#map .mark").last.tap(force=True)
        assert told(page) in keys
        box = page.locator("#map .tip").bounding_box()
        assert box is not None
        assert 0 <= box["x"] <= box["x"] + box["width"] <= 390


def test_the_legend_filters_the_map(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport={"width": 390, "height": 844}) as page:
        dimmed = page.locator("#map .mark.dim")
        assert (dimmed.count(), page.locator(".showing").text_content()) == (0, "Showing 46 of 46 photos.")
        kiwi = page.locator("#map button", has_text=re.compile("^kiwi30$"))
        kiwi.click()
        assert (dimmed.count(), page.locator(".showing").text_content()) == (16, "Showing 30 of 46 photos.")
        assert kiwi.get_attribute("aria-pressed") == "true"
        page.locator("#map button", has_text=re.compile("^lime2$")).press("Enter")
        assert page.locator(".showing").text_content() == "Showing 32 of 46 photos."
        page.locator("#map button", has_text=re.compile("^all$")).click()
        assert dimmed.count() == 0


def test_dark_and_light_are_readable(browser: "Browser", page_uri: str) -> None:
    colours = {}
    for scheme in ("light", "dark"):
        with opened(browser, page_uri, color_scheme=scheme) as page:
            found = page.evaluate(
                "['#flow', '.caption'].map((name) => getComputedStyle(document.querySelector(name)))"
                ".map((style, n) => n ? style.color : style.backgroundColor)"
            )
            colours[scheme] = [tuple(map(int, re.findall(r"\d+", colour)[:3])) for colour in found]
    assert colours["light"] != colours["dark"]
    for card, text in colours.values():
        assert _contrast(card, text) >= 4.5


def _contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """Source: WCAG 2.1, relative luminance and contrast ratio."""

    def luminance(colour: tuple[int, ...]) -> float:
        parts = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_an_empty_home_has_a_page_that_says_what_to_do(browser: "Browser", tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    with pytest.raises(NothingIngested, match="Nothing was ingested into"):
        collect(home)
    create_tables(home)
    with opened(browser, write_report(home, LIMITS, None, True, None, MONDAY).uri) as page:
        said = page.locator(".none").all_text_contents()
        assert len(said) == 11
        assert "Nothing was ingested yet. Drop photos into the landing and run fruits stream." in said
        assert "No PCA version is served yet. Run fruits refit --reproject." in said
    add_day(home, 1, ["kiwi"], MONDAY)
    with opened(browser, write_report(home, LIMITS, None, True, None, MONDAY + timedelta(1)).uri) as page:
        assert page.locator("#headline .value").first.text_content() == "1"
        assert (
            "No PCA version is served yet. Run fruits refit --reproject." in page.locator(".none").all_text_contents()
        )


def test_the_sample_is_the_same_each_time_and_shows_rare_labels(home: Home) -> None:
    shown, again = collect(home, most_photos=20).pca_map, collect(home, most_photos=20).pca_map
    assert shown is not None
    assert shown == again
    assert (shown.of_photos, len(shown.photos), len({photo.image_id for photo in shown.photos})) == (46, 20, 20)
    assert {photo.label for photo in shown.photos} == set(range(15))
    assert dict(shown.labels)["kiwi"] == 30


def test_since_leaves_out_what_came_before(home: Home) -> None:
    report = collect(home, since=date(2026, 10, 6))
    assert (report.totals["photos"], report.totals["rejects"], report.reasons) == (34, 0, [])
    assert report.pca_map is not None
    assert report.pca_map.of_photos == 34
    assert [shift["photos"] for shift in report.shifts] == [32, 2]
    assert min(flow["at"] for flow in report.flow) >= datetime(2026, 10, 6, tzinfo=UTC)


def test_a_turned_subspace_and_moved_photos_show(home: Home) -> None:
    report = collect(home)
    first, second = report.versions
    assert first["angles_deg"] == []
    assert len(second["angles_deg"]) == 3
    assert second["angles_deg"][-1] == pytest.approx(45)
    assert second["spectrum"][0][0] == 1
    assert second["spectrum"][-1][2] == pytest.approx(1)
    assert [shift["day"] for shift in report.shifts] == [date(2026, 10, 5), date(2026, 10, 6), date(2026, 10, 7)]
    assert report.shifts[2]["by_chance"] == pytest.approx(1 / np.sqrt(2))


def test_thumbnails_are_of_the_photos_themselves_and_carry_nothing_else(browser: "Browser", tmp_path: Path) -> None:
    settings = load_settings(home=str(tmp_path / "home"))
    home = settings.places()
    exif = Image.Exif()
    exif[0x010F] = "a camera with a serial number"
    bodies = [encoded(pixels(seed), "JPEG", exif=exif.tobytes()) for seed in range(5)]
    # On a disk a name may hold what the clients of S3 cannot address.
    labels = ["label 0\x1b[31m", *(f"label {n}" for n in range(1, 5))]
    add_day(home, 1, labels, MONDAY)
    _rename_images(home, bodies)
    keys = [f"{label}/1-{n}.jpg" for n, label in enumerate(labels)]
    for key, body in ((keys[0], bodies[0]), (keys[1], bodies[3])):
        (home.landing.directory / key).parent.mkdir(parents=True)
        (home.landing.directory / key).write_bytes(body)
    archived = home.archive.directory / archived_name(LandedObject(keys[2], 0, "e", MONDAY))
    archived.parent.mkdir(parents=True)
    archived.write_bytes(bodies[2])
    # The last two have a copy, of whom nothing else is left.
    _commit_copies(home, {keys[3]: bodies[1], keys[4]: bodies[4]})
    serve(home, 2, [fitted()])

    written = write_report(home, LIMITS, None, True, None, MONDAY)
    with opened(browser, written.uri) as page:
        told = json.loads(str(page.locator("#data").text_content()))
        pictures = {
            photo["key"]: told["pictures"][photo["picture"]]
            for photo in told["pca_map"]["photos"]
            if "picture" in photo
        }
        # The second's place was taken by another photo.
        assert set(pictures) == {keys[0], *keys[2:]}
        assert page.locator("#map image").count() == 4
        assert "small pictures of them" in str(page.locator("footer").text_content())
    for picture in pictures.values():
        with Image.open(io.BytesIO(base64.b64decode(picture.partition(",")[2]))) as small:
            assert (small.format, max(small.size), dict(small.getexif())) == ("JPEG", 112, {})
    assert b"serial number" not in Path(written.uri.removeprefix("file://")).read_bytes()


def _commit_copies(home: Home, jpegs: dict[str, bytes]) -> None:
    rows = DeltaTable(str(home.features.directory)).to_pyarrow_table().to_pylist()
    copied = [row | {"jpeg": jpeg} for key, jpeg in jpegs.items() for row in rows if row["source"].endswith(f"/{key}")]
    create_copies(home)
    columns = {name: [row[name] for row in copied] for name in COPY_ROWS.file_schema.names}
    added = write_file(home, COPY_ROWS, columns, {"ingest_date": str(copied[0]["ingest_date"])})
    append_once(home, COPY_ROWS, COPYING, [added], {}, lambda _: False)


def _rename_images(home: Home, bodies: Sequence[bytes]) -> None:
    """Give the photos of the only batch the hashes of these bytes."""
    table = DeltaTable(str(home.features.directory))
    rows = table.to_pyarrow_table().sort_by("label")
    ids = [[hashlib.sha256(body).hexdigest() for body in bodies]]
    write_deltalake(table, rows.set_column(0, rows.schema.field(0), ids), mode="overwrite")


def test_no_page_is_made_while_someone_is_being_forgotten(home: Home, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    erasure = begin_erasure(home, "subject", "anna", [], MONDAY)
    with pytest.raises(HomeInUse):
        write_report(home, LIMITS, None, False, file, MONDAY)
    assert not file.exists()
    finish_erasure(home, erasure.id, MONDAY)
    assert write_report(home, LIMITS, None, False, file, MONDAY).uri == file.as_uri()


def test_the_command_uploads_the_page_to_a_home_on_s3(bucket: str, s3_server: str, tmp_path: Path) -> None:
    settings = load_settings(home=f"s3://{bucket}/home", s3_endpoint=s3_server, s3_region="eu-west-3")
    create_tables(settings.places())
    flags = ["--home", settings.home, "--s3-endpoint", s3_server, "--s3-region", "eu-west-3"]

    answer = CliRunner().invoke(app, ["report", *flags])

    uri = answer.output.split()[0]
    assert re.fullmatch(rf"{settings.home}/reports/[0-9TZ-]+\.html", uri), answer.output
    page = bytes(obstore.get(settings.places().reports.store, uri.rpartition("/")[2]).bytes())
    assert page.startswith(b"<!doctype html>")
    missing = CliRunner().invoke(app, ["report", *flags, "--output", str(tmp_path / "none" / "page.html")])
    assert "cannot be written" in str(missing.exception)
