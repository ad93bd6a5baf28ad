"""The command that queries the tables."""

import re
from collections.abc import Collection, Sequence
from typing import Annotated

import typer

from features.errors import InvalidSetting
from ops.cli.aws.stage import STAGE, connect_to_stage
from ops.cli.command import READING, Flags, takes_settings
from ops.cli.console import Format, console, notify

# Any other word is SQL, which has a space or a bracket in it.
_NAME = re.compile(r"\w[\w-]*")


@takes_settings(*READING, *STAGE)
def query(
    flags: Flags,
    words: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME [--PARAMETER VALUE]... | SQL]",
            help="A named query with its parameters, or SQL over photos, arrivals, current_projections, features, "
            "projections and rejects. Without either: what queries there are.",
            show_default=False,
        ),
    ] = None,
    form: Annotated[Format, typer.Option("--format", help="How to write the rows.")] = "table",
    listed: Annotated[bool, typer.Option("--list", help="Show the named queries.")] = False,
    shown: Annotated[bool, typer.Option("--show", help="Print the query's SQL instead of running it.")] = False,
    athena: Annotated[bool, typer.Option("--athena", help="Run it on Athena, on the tables of a stage.")] = False,
) -> None:
    """Query the tables with DuckDB, on disk and on S3, or with Athena: by a query's name, or in SQL."""
    import pyarrow as pa

    from ops.cli.process.terminal import as_typed, write_exactly
    from ops.query.named_queries import named_queries, named_query
    from ops.query.rows import show

    words = [as_typed(word) for word in words or ()]
    if listed or not words:
        queries = {
            "query": [query.name for query in named_queries()],
            "parameters": [" ".join(map(str, query.parameters)) for query in named_queries()],
            "what it answers": [query.answers for query in named_queries()],
        }
        show(pa.table(queries), form, console)
        notify("`fruits query NAME` runs one, `fruits query NAME --show` prints its SQL.")
        return
    if words[0].startswith("--") and not any(each.isspace() for each in words[0]):
        raise InvalidSetting(
            f"A query begins with its name or is SQL, not {words[0]}: fruits query NAME --parameter value"
        )
    named = named_query(words[0]) if _NAME.fullmatch(words[0]) else None
    sql = named.sql if named else words[0]
    if shown:
        write_exactly(f"{sql.rstrip()}\n")
        return
    switches = {parameter.name for parameter in named.parameters if parameter.is_switch} if named else set()
    parameters = _parameters(words, switches)
    if named is None and parameters:
        raise InvalidSetting(
            f"SQL takes no --{next(iter(parameters))}: only named queries have parameters; --help shows the options."
        )
    values = named.values(parameters) if named else []
    if athena:
        if "home" in flags.given:
            raise InvalidSetting("Athena reads the tables of a stage: drop --home, and name the stage with --stage.")
        from ops.query.athena_query import run_on_athena

        stage = connect_to_stage(flags.load())
        answer = run_on_athena(stage, named.name if named else "the query", sql, values)
        notify(f"Athena read {answer.scanned_bytes / 1e6:,.2f} MB.")
        rows = answer.rows
    else:
        if not flags.given.keys().isdisjoint(STAGE):
            raise InvalidSetting("--stage and --region say where Athena is: add --athena, or name a home with --home.")
        from ops.query.query import connect, run_query, to_duckdb

        connection = connect(flags.open_to_read().places())
        rows = run_query(connection, to_duckdb(sql) if named else sql, values)
    show(rows, form, console)
    if named and not len(rows):
        notify(named.none)


def _parameters(words: Sequence[str], switches: Collection[str]) -> dict[str, str]:
    """What was written after a query's name as `--name value`, `--name=value`, or `--name` alone for a switch."""
    parameters: dict[str, str] = {}
    rest = iter(words[1:])
    for word in rest:
        if not word.startswith("--"):
            raise InvalidSetting(
                f"{word!r} is one word too many: quote SQL as a whole, and write parameters as --name value."
            )
        name, has_value, value = word.removeprefix("--").partition("=")
        if name in parameters:
            raise InvalidSetting(f"--{name} is given twice; give it once.")
        if not has_value and name in switches:
            value = "true"
        elif not has_value:
            try:
                value = next(rest)
            except StopIteration:
                raise InvalidSetting(f"--{name} has no value: write --{name} VALUE.") from None
        parameters[name] = value
    return parameters
