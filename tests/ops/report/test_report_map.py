"""The report's map in a real browser: zoomed, searched, a photo's neighbours; waits of days beside those of seconds."""

import re
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ops.query.query import connect
from ops.report.data import collect
from ops.report.photo_map import nearest
from ops.report.written import write_report
from store.home import Home
from store.settings import load_settings
from store.tables.commits import commit
from store.tables.files import write_file
from store.tables.schemas import FEATURE_ROWS
from tests.support.feature_rows import feature_vectors, fitted
from tests.support.report_home import LIMITS, MONDAY, add_day, opened, serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = pytest.mark.xdist_group("browser")

DESKTOP = {"width": 1280, "height": 900}
PHONE = {"width": 390, "height": 844}
LABELS = [f"fruit-{n:02d}" for n in range(81)]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """Two days: of 81 labels 1 to 81 photos each, then two photos; 2 rejects on the first day."""
    home = load_settings(home=str(tmp_path_factory.mktemp("map") / "home")).places()
    add_day(home, 1, [label for n, label in enumerate(LABELS) for _ in range(n + 1)], MONDAY, rejects=2)
    add_day(home, 2, ["fruit-00", "fruit-80"], MONDAY + timedelta(days=1))
    serve(home, 3, [fitted()])
    return home


@pytest.fixture(scope="module")
def page_uri(home: Home) -> str:
    return write_report(home, LIMITS, None, False, None, MONDAY).uri


def _places(page: "Page") -> list[tuple[float, float]]:
    """Where the first marks are, in px from the page's corner."""
    return list(
        page.evaluate(
            "[...document.querySelectorAll('#map .mark')].slice(-40).map((mark) => mark.getBoundingClientRect())"
            ".map((box) => [box.x + box.width / 2, box.y + box.height / 2])"
        )
    )


def _spread(page: "Page") -> float:
    return float(np.ptp(np.array(_places(page)), axis=0).max())


def _level(page: "Page") -> str:
    # The marks move with the next picture that the browser draws.
    page.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
    return str(page.locator("#map .zoom .level").text_content())


def _middle(page: "Page") -> tuple[float, float]:
    chart = page.locator("#map .plot > svg")
    chart.scroll_into_view_if_needed()
    # What scrolled the page a moment ago is not meant for the map.
    page.wait_for_timeout(400)
    box = chart.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_buttons_keys_and_the_wheel_zoom_the_map(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport=DESKTOP) as page:
        whole = _spread(page)
        closer, wider, reset = (
            page.get_by_role("button", name=name, exact=True) for name in ("Zoom in", "Zoom out", "Reset the zoom")
        )
        assert wider.is_disabled()
        assert reset.is_disabled()
        closer.click()
        assert _level(page) == "1.6×"
        assert _spread(page) == pytest.approx(1.6 * whole, rel=0.02)
        wider.click()
        assert _level(page) == ""
        assert _spread(page) == pytest.approx(whole, rel=0.01)

        chart = page.locator("#map .plot > svg")
        chart.press("+")
        chart.press("+")
        assert _level(page) == "2.6×"
        before = _places(page)
        chart.press("Shift+ArrowRight")
        _level(page)
        assert _places(page)[0][0] == pytest.approx(before[0][0] - 60, abs=1)
        chart.press("-")
        chart.press("0")
        assert _level(page) == ""

        x, y = _middle(page)
        page.mouse.move(x, y)
        scrolled = page.evaluate("scrollY")
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(100)
        assert _level(page) == "1.8×"
        assert page.evaluate("scrollY") == scrolled
        before = _places(page)
        page.mouse.down()
        page.mouse.move(x + 80, y + 30, steps=4)
        page.mouse.up()
        _level(page)
        assert _places(page)[0] == pytest.approx((before[0][0] + 80, before[0][1] + 30), abs=2)
        assert not page.locator("#map .tip").is_visible()
        reset.click()
        assert _level(page) == ""
        assert _spread(page) == pytest.approx(whole, rel=0.01)


def test_a_map_seen_whole_lets_the_page_scroll_on(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport=DESKTOP) as page:
        x, y = _middle(page)
        page.mouse.move(x, y)
        before = page.evaluate("scrollY")
        page.mouse.wheel(0, 240)
        # No fixed time: what counts is that the next turn comes soon after the page has moved.
        while page.evaluate("scrollY") <= before:
            page.wait_for_timeout(10)
        # What scrolls the page goes on scrolling it, also back over the map.
        page.mouse.wheel(0, -120)
        page.wait_for_timeout(100)
        assert _level(page) == ""


def test_two_fingers_zoom_the_map_and_one_moves_it(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport=PHONE, has_touch=True, is_mobile=True) as page:
        x, y = _middle(page)
        whole, scrolled = _spread(page), page.evaluate("scrollY")
        fingers = page.context.new_cdp_session(page)

        def touch(kind: str, *points: tuple[float, float]) -> None:
            at = [{"x": px, "y": py, "id": n} for n, (px, py) in enumerate(points)]
            fingers.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": at})

        touch("touchStart", (x - 20, y), (x + 20, y))
        for apart in (30, 40, 50, 60):
            touch("touchMove", (x - apart, y), (x + apart, y))
        touch("touchEnd")
        assert _level(page) == "3.0×"
        assert _spread(page) == pytest.approx(3 * whole, rel=0.05)
        assert page.evaluate("visualViewport.scale") == 1
        before = _places(page)
        touch("touchStart", (x, y))
        for down in (10, 20, 30, 40):
            touch("touchMove", (x, y + down))
        touch("touchEnd")
        _level(page)
        assert _places(page)[0][1] == pytest.approx(before[0][1] + 40, abs=8)
        assert page.evaluate("scrollY") == scrolled


def _reading(page: "Page") -> tuple[str, list[str]]:
    """The key of the photo that is told, and those of its neighbours."""
    tip = page.locator("#map .tip")
    return str(tip.locator("dd").first.text_content()), tip.locator(".near .count").all_text_contents()


def test_a_click_shows_the_photos_that_are_nearest_by_all_components(
    browser: "Browser", page_uri: str, home: Home
) -> None:
    shown = collect(home).pca_map
    assert shown is not None
    rows = connect(home).sql("SELECT source, pca FROM current_projections").fetchall()
    sampled = {photo.source: photo.key for photo in shown.photos}
    pca = {source: np.array(point) for source, point in rows if source in sampled}

    def expected(key: str) -> list[str]:
        (source,) = (source for source, found in sampled.items() if found == key)
        by_distance = sorted(pca, key=lambda other: float(np.linalg.norm(pca[other] - pca[source])))
        return [sampled[other] for other in by_distance[1:6]]

    with opened(browser, page_uri, viewport=DESKTOP) as page:
        page.locator("#map .mark").last.click(force=True)
        key, near = _reading(page)
        assert near == expected(key)
        assert "Nearest on this map, by all 4 components" in str(page.locator("#map .tip").text_content())
        assert page.locator("#map svg .nth").all_text_contents() == ["1", "2", "3", "4", "5"]
        page.locator("#map .near button").nth(2).click()
        key, again = _reading(page)
        assert (key, again) == (near[2], expected(near[2]))
        chart = page.locator("#map .plot > svg")
        chart.press("ArrowLeft")
        key, near = _reading(page)
        assert near == expected(key)
        assert re.search(r"Nearest: fruit-\d\d, fruit-\d\d", str(page.locator("#map .said").text_content()))
        chart.press("Escape")
        assert page.locator("#map svg .nth").count() == 0


def test_a_neighbour_outside_the_zoomed_part_comes_into_sight(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport=DESKTOP) as page:
        chart = page.locator("#map .plot > svg")
        chart.press("ArrowRight")
        for _ in range(9):
            chart.press("+")
        for _ in range(20):
            chart.press("Shift+ArrowLeft")
        _level(page)
        tip = page.locator("#map .tip").bounding_box()
        assert tip is not None
        assert 0 <= tip["x"] <= tip["x"] + tip["width"] <= 1280
        assert page.evaluate("document.documentElement.scrollWidth") == 1280
        page.locator("#map .near button").last.click()
        _level(page)
        ring, frame = page.locator("#map svg circle[stroke-width='2']").bounding_box(), chart.bounding_box()
        assert ring is not None
        assert frame is not None
        assert frame["x"] <= ring["x"] <= frame["x"] + frame["width"]
        assert frame["y"] <= ring["y"] <= frame["y"] + frame["height"]


def test_any_of_81_labels_is_found_highlighted_and_told_from_the_others(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport=DESKTOP) as page:
        buttons = page.locator("#map .labels button")
        assert "fruit-02" not in page.locator("#map .labels bdi").all_text_contents()
        assert "81 labels; search for the 45 that have no button." in str(page.locator(".found").text_content())
        field = page.get_by_label("Find a label")
        field.fill("fruit-0")
        assert sorted(page.locator("#map .labels bdi").all_text_contents()) == LABELS[:10]
        field.press("Enter")
        assert str(page.locator(".showing").text_content()).startswith("Showing 56 of ")
        styles = page.locator("#map .labels button[aria-pressed='true'] svg").evaluate_all(
            "(svgs) => svgs.map((svg) => svg.innerHTML)"
        )
        assert len(set(styles)) == 10
        assert all("--other" not in style for style in styles)
        field.fill("fruit-02")
        field.press("Enter")
        field.fill("")
        assert "fruit-09" in page.locator("#map .labels bdi").all_text_contents()
        assert str(page.locator(".showing").text_content()).startswith("Showing 53 of ")
        page.get_by_role("button", name="fruit-09 10").click()
        assert str(page.locator(".showing").text_content()).startswith("Showing 43 of ")
        assert "fruit-09" in page.evaluate("document.activeElement.textContent")
        buttons.first.press("Enter")
        assert page.evaluate("document.activeElement.textContent") == "all"
        assert page.locator("#map .mark.dim").count() == 0
        coloured = page.locator("#map .labels button svg").evaluate_all("(svgs) => svgs.map((svg) => svg.innerHTML)")
        assert len({style for style in coloured if "--other" not in style}) == 24


def test_since_says_what_lies_before(browser: "Browser", home: Home, tmp_path: Path) -> None:
    tuesday = date(2026, 10, 6)
    assert collect(home, tuesday).left_out == {"photos": 3321, "rejects": 2, "batches": 1, "days": 1}
    assert collect(home, date(2026, 10, 5)).left_out == {"photos": 0, "rejects": 0, "batches": 0, "days": 0}
    assert collect(home).left_out is None
    with opened(browser, write_report(home, LIMITS, tuesday, False, tmp_path / "tuesday.html", MONDAY).uri) as page:
        assert page.locator("#home .since").text_content() == (
            "Only what was ingested from 2026-10-06 on. "
            "Left out, because it came before: 3,321 photos and 2 rejects, in 1 batch of 1 day."
        )
    never = write_report(home, LIMITS, date(2027, 1, 1), False, tmp_path / "never.html", MONDAY).uri
    with opened(browser, never) as page:
        assert "3,323 photos" in str(page.locator("#home .since").text_content())
        said = page.locator(".none").all_text_contents()
        assert "Nothing was ingested from 2027-01-01 on." in said
        assert "No photo ingested from 2027-01-01 on is projected with the served version." in said
        assert not any("yet" in sentence for sentence in said if "refit" not in sentence and "version" not in sentence)


def test_one_wait_of_days_leaves_those_of_seconds_apart(browser: "Browser", tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    add_day(home, 1, ["kiwi"] * 3, MONDAY)
    add_day(home, 2, ["kiwi"], MONDAY + timedelta(days=1))
    _add_late(home, 3, MONDAY + timedelta(days=2), timedelta(days=5))
    page_uri = write_report(home, LIMITS, None, False, None, MONDAY).uri
    for viewport in (DESKTOP, PHONE):
        with opened(browser, page_uri, viewport=viewport) as page:
            ticks: list[tuple[str, float]] = page.locator("#latency svg text[text-anchor='end']").evaluate_all(
                "(nodes) => nodes.map((node) => [node.textContent, Number(node.getAttribute('y'))])"
            )
            assert [name for name, _ in ticks] == ["1 s", "10 s", "1 min", "10 min", "1 h", "1 d", "10 d"]
            gaps = -np.diff([y for _, y in ticks])
            assert gaps.min() > 20
            dots = page.locator("#latency .plot .dot").evaluate_all(
                "(all) => all.map((dot) => dot.getBBox()).map((box) => box.y + box.height / 2)"
            )
            assert max(dots) < dict(ticks)["1 s"]
            assert min(dots) > dict(ticks)["10 d"]


def _add_late(home: Home, batch: int, at: Any, wait: timedelta) -> None:
    """A batch of one photo that had waited for so long."""
    columns = {
        **{name: [name] for name in ("image_id", "source", "etag", "label", "format", "featurizer")},
        **{name: [1] for name in ("bytes", "width", "height")},
        "subject": [None],
        "features": list(feature_vectors(1, 1)),
        "arrived_at": [at - wait],
        "batch": [batch],
        "ingested_at": [at],
    }
    commit(
        home,
        FEATURE_ROWS,
        batch,
        "a test",
        [write_file(home, FEATURE_ROWS, columns, {"ingest_date": f"{at:%Y-%m-%d}"})],
    )


def test_a_page_of_2500_photos_stays_small(page_uri: str, home: Home) -> None:
    shown = collect(home).pca_map
    assert shown is not None
    assert (len(shown.photos), shown.of_photos) == (2500, 3323)
    assert len(Path(page_uri.removeprefix("file://")).read_bytes()) < 450_000


@pytest.mark.parametrize("photos", [2, 3, 6, 300])
def test_the_nearest_are_those_that_a_plain_search_finds(photos: int) -> None:
    points = (np.random.default_rng(photos).normal(size=(photos, 16)) + 1000).astype(np.float32)
    for place, near in enumerate(nearest(points)):
        distances = np.linalg.norm(points.astype(float) - points[place].astype(float), axis=1)
        distances[place] = np.inf
        assert near == list(np.argsort(distances, kind="stable")[: min(5, photos - 1)])


@pytest.mark.parametrize("photos", [1, 2])
def test_a_map_of_one_or_two_photos_works(browser: "Browser", tmp_path: Path, photos: int) -> None:
    home = load_settings(home=str(tmp_path / "home")).places()
    add_day(home, 1, ["kiwi"] * photos, MONDAY)
    serve(home, 2, [fitted()])
    with opened(browser, write_report(home, LIMITS, None, False, None, MONDAY).uri, viewport=PHONE) as page:
        page.locator("#map .plot > svg").press("ArrowRight")
        assert len(_reading(page)[1]) == photos - 1


def test_lines_are_told_apart_without_colours(browser: "Browser", page_uri: str) -> None:
    with opened(browser, page_uri, viewport=DESKTOP) as page:
        keys = page.locator("#latency .keys svg").evaluate_all(
            "(svgs) => svgs.map((svg) => svg.innerHTML.replace(/var\\(--\\w+\\)/g, ''))"
        )
        assert len(keys) == len(set(keys)) == 3
