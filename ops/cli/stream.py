"""The command that runs the stream."""

from functools import partial
from typing import Annotated

import typer

from ops.cli.command import HOME, Flags, takes_settings
from ops.cli.console import console, notify
from ops.cli.process.interrupts import finish_at_interrupt, stop_on_sigterm
from ops.cli.weights import NewFeaturizer, install_featurizer

FormerLanding = Annotated[
    list[str] | None,
    typer.Option("--former-landing", metavar="URI", help="Where photos landed before; give it for each place."),
]


@takes_settings(
    *(*HOME, "landing", "weights", "trigger", "settle", "max_files", "max_bytes", "layout", "key_pattern", "queue"),
    *(
        "backfill",
        "only_new",
        "clean",
        "clean_after",
        "copies",
        "copy_px",
        "answers",
        "archive",
        "max_image_bytes",
        "max_pixels",
    ),
    "max_decode_time",
    *("storage_patience", "metrics", "master"),
)
def stream(
    flags: Flags,
    drain: Annotated[bool, typer.Option("--drain", help="Process what is there at the start, then exit.")] = False,
    wait: Annotated[
        bool | None,
        typer.Option("--wait/--no-wait", help="Wait while another stream works on this home; default: on YARN only."),
    ] = None,
    new_featurizer: NewFeaturizer = False,
    moved_from: Annotated[
        str | None, typer.Option("--moved-from", metavar="URI", help="What the landing was called before it was moved.")
    ] = None,
    former_landing: FormerLanding = None,
) -> None:
    """Featurize photos as they land, until Ctrl-C or SIGTERM; the batch in hand is finished first."""
    from bootstrap.programs import use_java
    from ops.monitor.json_lines import JsonLines
    from ops.monitor.metrics import with_metrics
    from ops.monitor.progress import LivePanel
    from store.state.landing_names import remember_landing
    from streaming.service import claim_home, run_stream

    settings = flags.open_to_change(makes_home=True)
    stop = stop_on_sigterm()
    home = settings.locations()
    if moved_from or former_landing:
        remember_landing(home, moved_from, former_landing or ())
    use_java()
    progress = (
        LivePanel(console, f"fruits stream  {home.root.uri}", home) if console.is_terminal else JsonLines(settings)
    )
    with claim_home(settings, stop, notify, wait) as heart:
        if heart is None:
            return
        install_featurizer(settings, new_featurizer)
        with progress, with_metrics(settings, progress.watcher, progress.warn) as watcher:
            run_stream(settings, drain, stop, watcher, heart, partial(finish_at_interrupt, stop))
