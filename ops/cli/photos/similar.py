"""The command that finds the known photos nearest to others."""

from typing import Annotated

import typer

from ops.cli.command import Flags, takes_settings
from ops.cli.console import console
from ops.cli.photos.files import PHOTOS, Files, Form, check_files, check_none_refused, tell_refused


@takes_settings(*PHOTOS)
def similar(
    flags: Flags,
    files: Files,
    k: Annotated[int, typer.Option("--k", min=1, help="How many neighbours to find.")] = 10,
    form: Form = "table",
) -> None:
    """Find the known photos nearest to others, in the served PCA space; copies of a photo count as one."""
    check_files(files)

    import pyarrow as pa

    from ops.identify.featurized_files import FileFeaturizer
    from ops.identify.identify import served_model
    from ops.identify.identify import similar as find_similar
    from ops.query.rows import show

    with FileFeaturizer(flags.load().limits, files) as featurizer:
        home = flags.open_to_read().places()
        model = served_model(home, names=False)
        rows = pa.concat_tables(find_similar(home, model, featurizer, k))
    found = rows.filter(pa.compute.is_null(rows["reason"])).drop_columns(["reason", "detail"])
    if form != "table":
        show(found, form, console)
    elif found.num_rows:
        show(found if len(files) > 1 else found.drop_columns("file"), form, console)
    tell_refused(rows)
    check_none_refused(rows, len(files))
