"""The command that queries the tables."""

from typing import Annotated

import typer

from ops.options import AllowRegion, Debug, Endpoint, HomeUri, Region, checked_settings, console
from ops.rows import Format


def query(
    sql: Annotated[str, typer.Argument(help="SQL over features, current_projections, projections and rejects.")],
    form: Annotated[Format, typer.Option("--format", help="How to write the rows.")] = "table",
    home: HomeUri = None,
    s3_endpoint: Endpoint = None,
    s3_region: Region = None,
    allow_region: AllowRegion = None,
    debug: Debug = False,
) -> None:
    """Query the tables with DuckDB, on disk and on S3."""
    from ops.query import connect, run_query
    from ops.rows import show

    settings = checked_settings(home=home, s3_endpoint=s3_endpoint, s3_region=s3_region, allow_region=allow_region)
    show(run_query(connect(settings.places()), sql), form, console)
