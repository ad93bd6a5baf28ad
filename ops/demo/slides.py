"""The slides: a PDF of `docs/slides.md`, with pictures of the report of a home."""

import argparse
import base64
import html
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt
from markdown_it.tree import SyntaxTreeNode

from bootstrap.programs import find_chromium
from features.errors import FruitsError
from ops.report.written import write_report
from store.settings import Settings, load_settings

if TYPE_CHECKING:
    from playwright.sync_api import Browser

DOCS = Path(__file__).parents[2] / "docs"

_CHAIN = "chain"
_OF_REPORT = "report:"
_PHONE = "phone"
# Twice as many pixels as the slide has, for a projector.
_SCALE = 2
_QUALITY = 82


class UnknownPicture(FruitsError):
    """The slides ask for a picture that nobody makes."""


def make_slides(settings: Settings, slides: Path, style: Path, pdf: Path) -> None:
    """Print the slides to a PDF, 1280 x 720 px a page, with pictures of the report of a home.

    Raises NothingIngested when the home has no tables yet, ChromiumMissing, UnknownPicture.
    """
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        file = Path(folder, "report.html")
        report = write_report(settings.places(), settings.limits, None, True, file, datetime.now(UTC))
        # Its sandbox does not work for root; the pages are our own.
        browser = playwright.chromium.launch(executable_path=find_chromium(), chromium_sandbox=False)
        markdown = slides.read_text(encoding="utf-8")
        pictures = {name: _picture(browser, report.uri, name) for name in _picture_names(markdown)}
        page = browser.new_page()
        page.set_content(slides_html(markdown, style.read_text(encoding="utf-8"), pictures))
        page.pdf(path=pdf, prefer_css_page_size=True, print_background=True)
        browser.close()


def slides_html(markdown: str, style: str, pictures: dict[str, str]) -> str:
    """One page of HTML with a section for each slide. Slides are separated by `---`.

    A fenced block `chain` is a row of boxes, one a line: `name | what`. A picture `report:NAME` is one of `pictures`,
    URIs by name, and stands beside the text. Raises UnknownPicture.
    """
    parser = MarkdownIt("commonmark").enable("table")
    shown = "".join(_slide(parser, slide, pictures) for slide in markdown.split("\n---\n"))
    head = f'<meta charset="utf-8"><title>Fruits!</title><style>{style}</style>'
    return f'<!doctype html><html lang="en">{head}{shown}'


def _slide(parser: MarkdownIt, markdown: str, pictures: dict[str, str]) -> str:
    text: list[str] = []
    beside: list[str] = []
    for block in SyntaxTreeNode(parser.parse(markdown)).children:
        images = [node for node in block.walk() if node.type == "image"]
        if block.type == "fence" and block.info == _CHAIN:
            boxes = (map(str.strip, line.partition("|")) for line in block.content.strip().splitlines())
            shown = (f"<li><strong>{html.escape(name)}</strong>{html.escape(what)}</li>" for name, _, what in boxes)
            text.append(f'<ol class="chain">{"".join(shown)}</ol>')
        elif images:
            for image in images:
                name = str(image.attrs["src"]).removeprefix(_OF_REPORT)
                if name not in pictures:
                    raise UnknownPicture(
                        f"The slides show {image.attrs['src']!r}, which is no picture of the report; correct it."
                    )
                beside.append(f'<img src="{pictures[name]}" alt="{html.escape(image.content)}">')
        else:
            rendered = parser.renderer.render(block.to_tokens(), parser.options, {})
            text.append(rendered.replace("<p>Source:", '<p class="source">Source:'))
    picture = f'<div class="picture">{"".join(beside)}</div>' if beside else ""
    return f'<section class="slide"><div class="text">{"".join(text)}</div>{picture}</section>'


def _picture_names(markdown: str) -> list[str]:
    images = (node for node in SyntaxTreeNode(MarkdownIt().parse(markdown)).walk() if node.type == "image")
    return [str(image.attrs["src"]).removeprefix(_OF_REPORT) for image in images]


def _picture(browser: "Browser", report_uri: str, name: str) -> str:
    """A section of the report as a desktop shows it, or the beginning of it on a phone; a data URI."""
    is_phone = name == _PHONE
    page = browser.new_page(
        viewport={"width": 390, "height": 780} if is_phone else {"width": 1100, "height": 800},
        device_scale_factor=_SCALE,
        color_scheme="dark" if is_phone else "light",
    )
    page.goto(report_uri)
    # The header names the home's place on this machine.
    page.evaluate("document.querySelectorAll('details, header').forEach((node) => node.remove())")
    section = page.locator("#headline" if is_phone else f"#{name}")
    if not section.count():
        raise UnknownPicture(f"The report has no section {name!r}; the slides ask for it.")
    jpeg = (page if is_phone else section).screenshot(type="jpeg", quality=_QUALITY)
    page.close()
    return f"data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Print docs/slides.md as a PDF.")
    parser.add_argument("home", help="a home with photos and a PCA, as the demo makes one")
    parser.add_argument("pdf", type=Path)
    asked = parser.parse_args()
    try:
        make_slides(load_settings(home=asked.home), DOCS / "slides.md", DOCS / "slides.css", asked.pdf)
    except FruitsError as error:
        raise SystemExit(f"fruits: {error}") from error
    print(asked.pdf)


if __name__ == "__main__":
    main()
