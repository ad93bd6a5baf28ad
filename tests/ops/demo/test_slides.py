"""The slides fit their pages, and the figures on them are those of the documents they cite."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ops.demo.slides import DOCS, UnknownPicture, slides_html

if TYPE_CHECKING:
    from playwright.sync_api import Browser

pytestmark = pytest.mark.xdist_group("browser")

MARKDOWN = (DOCS / "slides.md").read_text()
SLIDES = MARKDOWN.split("\n---\n")
STYLE = (DOCS / "slides.css").read_text()
PICTURE = "data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' width='600' height='500'/>"


def _pages(pdf: bytes) -> int:
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_each_slide_fits_on_a_page(browser: "Browser") -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 720})
    page.set_content(slides_html(MARKDOWN, STYLE, dict.fromkeys(("map", "scree", "phone"), PICTURE)))
    ends_px = page.evaluate(
        "[...document.querySelectorAll('.slide')].map((slide) => Math.max(...[...slide.querySelectorAll('*')]"
        ".map((node) => node.getBoundingClientRect().bottom - slide.getBoundingClientRect().top)))"
    )
    wide = page.evaluate("document.querySelectorAll('.slide *').values().some((node) => node.scrollWidth > 1280)")
    printed = page.pdf(prefer_css_page_size=True)
    page.close()
    assert len(ends_px) == len(SLIDES) == 10
    assert max(ends_px) <= 690
    assert not wide
    assert _pages(printed) == 10


CITING = [slide for slide in SLIDES if "Source:" in slide]


@pytest.mark.parametrize("slide", CITING, ids=lambda slide: slide.strip().splitlines()[0])
def test_figures_are_those_of_the_source(slide: str) -> None:
    match = re.search(r"Source: \[[^]]*\]\(([^)]+)\)", slide)
    assert match is not None
    source = Path(DOCS, match[1]).read_text()
    told = "".join(line for line in slide.splitlines() if line.startswith("|") or "took" in line)
    figures = set(re.findall(r"\d[\d.,]*\d", told))
    assert len(figures) > 5
    assert figures - set(re.findall(r"\d[\d.,]*\d", source)) == set()


def test_a_box_for_each_line_and_no_picture_that_nobody_makes() -> None:
    shown = slides_html("# One\n\n```chain\na | <b>\nc | d\n```\n", "", {})
    assert "<li><strong>a</strong>&lt;b&gt;</li><li><strong>c</strong>d</li>" in shown
    with pytest.raises(UnknownPicture, match="report:nothing"):
        slides_html("![x](report:nothing)", "", {})
