"""The command that says what fruit is on photos."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from features.errors import InvalidSetting
from ops.cli.command import Flags, takes_settings
from ops.cli.console import console, notify
from ops.cli.photos.files import PHOTOS, Files, Form, check_files, check_none_refused, tell_refused

if TYPE_CHECKING:
    import pyarrow as pa

USUAL_NEIGHBOURS = 5


@takes_settings(*PHOTOS, "unknown_novelty")
def identify(
    flags: Flags,
    files: Files,
    neighbours: Annotated[bool, typer.Option("--neighbours", help="Also find the nearest known photos.")] = False,
    k: Annotated[int | None, typer.Option("--k", min=1, help="How many neighbours to find; default: 5.")] = None,
    form: Form = "table",
) -> None:
    """Say what fruit is on photos, how sure that is, and how strange each is; they need not be in the home."""
    check_files(files)
    if k and not neighbours:
        raise InvalidSetting("--k says how many neighbours to find: add --neighbours.")

    import pyarrow as pa

    from ops.identify.featurized_files import FileFeaturizer
    from ops.identify.identify import identified, served_model
    from ops.query.rows import show

    settings = flags.load()
    with FileFeaturizer(settings.limits, files) as featurizer:
        home = flags.open_to_read().places()
        model = served_model(home, names=True)
        parts = []
        for part in identified(home, model, featurizer, (k or USUAL_NEIGHBOURS) if neighbours else None):
            parts.append(part)
            if form == "json":
                # As soon as they are known, for programs that wait for them.
                show(part, form, console)
    rows = pa.concat_tables(parts)
    if form == "table":
        _show_tables(rows, settings.unknown_novelty)
        tell_refused(rows)
    elif form != "json":
        show(rows, form, console)
    check_none_refused(rows, len(files))


def _show_tables(rows: "pa.Table", unknown_novelty: float) -> None:
    """Standard output for people: a table of names, and one of neighbours for each file.

    What is stranger than `unknown_novelty` is told to be no known fruit.
    """
    import pyarrow as pa

    from ops.query.rows import show

    named = [row for row in rows.to_pylist() if row["reason"] is None]
    if not named:
        return
    is_calibrated = named[0]["calibrated"]
    uncalibrated = "" if is_calibrated else " (uncalibrated)"
    shown = {
        "file": [row["file"] for row in named],
        "predicted": [
            f"unknown, most like {row['predicted']}" if (row["novelty"] or 0) > unknown_novelty else row["predicted"]
            for row in named
        ],
        f"confidence{uncalibrated}": [_two_digits(row["confidence"]) for row in named],
        f"then{uncalibrated}": [
            ", ".join(f"{one['label']} {_two_digits(one['confidence'])}" for one in row["top3"][1:]) for row in named
        ],
        "novelty": [row["novelty"] for row in named],
        "distance": [row["distance"] for row in named],
    }
    show(pa.table(shown), "table", console)
    for row in named if "neighbours" in rows.column_names else ():
        near = pa.Table.from_pylist(row["neighbours"], schema=_neighbour_schema(rows))
        show(near, "table", console, title=f"Nearest to {row['file']}")
    version = f"Version {named[0]['version']} says this"
    notify(
        f"{version}."
        if is_calibrated
        else f"{version}. Its confidences are uncalibrated: too few photos came after a fit to measure them."
    )


def _neighbour_schema(rows: "pa.Table") -> Any:
    import pyarrow as pa

    kind = rows.schema.field("neighbours").type.value_type
    return pa.schema([kind.field(place) for place in range(kind.num_fields)])


def _two_digits(confidence: float) -> str:
    return f"{confidence:.2f}"
