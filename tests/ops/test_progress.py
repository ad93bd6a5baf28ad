"""What a person sees of a running stream on a terminal."""

from io import StringIO

from rich.console import Console

from features.settings import load_settings
from ops.progress import LivePanel
from streaming.arrivals import NOTHING_WAITS
from streaming.news import News


def test_the_panel_tells_how_many_photos_could_not_be_cleared_away() -> None:
    shown = StringIO()
    panel = LivePanel(
        Console(file=shown, force_terminal=True, width=100), "fruits stream", load_settings(home="nowhere").places()
    )
    with panel:
        panel.watcher.on_news(News(NOTHING_WAITS))
    assert "cleared away" not in shown.getvalue()
    with panel:
        panel.watcher.on_news(News(NOTHING_WAITS, uncleared=2))
    assert "2 photos could not be cleared away" in shown.getvalue()
