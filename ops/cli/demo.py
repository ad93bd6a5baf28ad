"""The command that shows it all on drawn photos."""

from typing import Annotated

import typer

from features.errors import InvalidSetting
from ops.cli.command import Flags, takes_settings
from ops.cli.console import console
from ops.cli.process.interrupts import stop_on_sigterm
from ops.cli.weights import install_featurizer


@takes_settings("home", "weights", "master")
def demo(
    flags: Flags,
    photos: Annotated[int, typer.Option("--photos", min=12, help="How many files to draw and drop.")] = 80,
) -> None:
    """Draw photos of fruit, drop them while the stream runs, and query what became of them."""
    try:
        from ops.demo.demo import check_landing, run_demo
    except ModuleNotFoundError as missing:
        if not str(missing.name).startswith("ops.demo"):
            raise
        raise InvalidSetting(
            "`fruits demo` runs on a laptop: a node of a cluster has no code that draws photos. "
            "Run it in a checkout of the project."
        ) from None
    from bootstrap.programs import use_java
    from ops.monitor.plain_lines import PlainLines
    from ops.monitor.progress import LivePanel

    settings = flags.open_to_change(makes_home=True)
    check_landing(settings)
    stop = stop_on_sigterm()
    use_java()
    install_featurizer(settings, new_featurizer=False)
    home = settings.locations()
    title = f"fruits demo  {home.root.uri}"
    progress = LivePanel(console, title, home) if console.is_terminal else PlainLines(console)
    run_demo(settings, photos, stop, progress, console)
