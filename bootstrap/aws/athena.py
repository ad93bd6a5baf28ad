"""Athena's tables and views of a home: the SQL files in `sql/`, in the order of their names."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from features.errors import FruitsError, InvalidSetting
from store.tables.schemas import ALL_TABLES

if TYPE_CHECKING:
    from types_boto3_athena import AthenaClient
    from types_boto3_athena.type_defs import QueryExecutionTypeDef
    from types_boto3_glue import GlueClient
    from types_boto3_glue.type_defs import StorageDescriptorOutputTypeDef

_FILE_NAME = re.compile(r"\d\d_(?P<name>[a-z_]+)\.sql")
_HOME = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=-]+)*")
_LOCATION = re.compile(r"^LOCATION '([^']+)'$", re.MULTILINE)
_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 2.0
_PATIENCE_S = 600.0


class AthenaRefused(FruitsError):
    """Athena did not run a statement, or a table of its catalog belongs to another home."""


@dataclass(frozen=True)
class Definition:
    """One SQL file: the table or view it creates, and its statement with the placeholder `${home}`."""

    file: str
    name: str
    statement: str

    @property
    def is_view(self) -> bool:
        return self.statement.startswith("CREATE OR REPLACE VIEW")


def create_tables_and_views(
    athena: "AthenaClient",
    glue: "GlueClient",
    database: str,
    work_group: str,
    home_uri: str,
    echo: Callable[[str], None],
) -> None:
    """Create missing tables and replace all views; the home's Delta tables must exist.

    `home_uri` is `s3://bucket[/prefix]`, without anything that SQL would need to escape; `echo` gets a line a file.
    Raises InvalidSetting for another home, AthenaRefused when a table reads from another place (before anything is
    changed), or with Athena's own reason when a statement fails.
    Replay changes nothing: tables stay unless they lack a column of today, views are replaced by the same.
    """
    if not _HOME.fullmatch(home_uri):
        raise InvalidSetting(f"Athena cannot read the home {home_uri!r}; give s3://bucket or s3://bucket/prefix.")
    run = partial(run_statement, athena, database, work_group)
    statements = {d: Template(d.statement).substitute(home=home_uri) for d in definitions()}
    catalog = {d.name: _describe_table(glue, database, d.name) for d in definitions() if not d.is_view}
    for definition, statement in statements.items():
        described = catalog.get(definition.name)
        if described is None:
            continue
        # IF NOT EXISTS would pass over such a table, and every query would read another home.
        [expected] = _LOCATION.findall(statement)
        location = described.get("Location", "")
        if location.rstrip("/") != expected.rstrip("/"):
            raise AthenaRefused(
                f"The table {database}.{definition.name} reads {location or 'nothing'} instead of {expected}; run "
                f"DROP TABLE {definition.name} in Athena, which leaves the data where it is, and try again."
            )
    for table in ALL_TABLES:
        columns = [column["Name"] for column in (catalog[table.name] or {}).get("Columns", [])]
        if columns and table.missing_in(columns):
            # Athena takes a Delta table's columns when it is created; the data stays where it is.
            run(f"DROP TABLE {table.name}", f"DROP TABLE {table.name}")
    for definition, statement in statements.items():
        run(definition.file, statement)
        echo(f"Athena: {database}.{definition.name}")


def run_statement(
    athena: "AthenaClient",
    database: str,
    work_group: str,
    name: str,
    statement: str,
    literals: Sequence[str] = (),
) -> "QueryExecutionTypeDef":
    """Run one statement, called `name` in errors, and return its execution once it has succeeded.

    `literals` are the values of the statement's `?` in their order, as SQL literals.
    Raises AthenaRefused with Athena's own reason. An interrupt also cancels the statement.
    """
    values: dict[str, Any] = {"ExecutionParameters": list(literals)} if literals else {}
    try:
        query = athena.start_query_execution(
            QueryString=statement, QueryExecutionContext={"Database": database}, WorkGroup=work_group, **values
        )["QueryExecutionId"]
    except athena.exceptions.ClientError as error:
        why = error.response["Error"].get("Message", str(error)).rstrip(".")
        hint = " Check --stage and --region." if "workgroup" in why.lower() else ""
        raise AthenaRefused(f"Athena does not run {name} in the work group {work_group}: {why}.{hint}") from error
    try:
        execution = _wait_for_the_end(athena, query, name)
    except BaseException as error:
        if not isinstance(error, Exception):
            athena.stop_query_execution(QueryExecutionId=query)
        raise
    status = execution["Status"]
    if status["State"] != "SUCCEEDED":
        why = status.get("StateChangeReason", "").rstrip(".") or "it gave no reason"
        raise AthenaRefused(
            f"Athena ended {name} as {status['State']} in the database {database}: {why}. Put that right and try again."
        )
    return execution


def definitions() -> list[Definition]:
    """All SQL files in the order in which they must run: a view after what it reads."""
    folder = files("bootstrap.aws") / "sql"
    found = sorted((match[0], match["name"]) for f in folder.iterdir() if (match := _FILE_NAME.fullmatch(f.name)))
    return [Definition(file, name, (folder / file).read_text("utf-8").strip()) for file, name in found]


def _describe_table(glue: "GlueClient", database: str, table: str) -> "StorageDescriptorOutputTypeDef | None":
    """What the catalog knows of a table; None if it has no such table."""
    try:
        return glue.get_table(DatabaseName=database, Name=table)["Table"].get("StorageDescriptor", {})
    except glue.exceptions.EntityNotFoundException:
        return None


def _wait_for_the_end(athena: "AthenaClient", query: str, name: str) -> "QueryExecutionTypeDef":
    deadline_s = time.monotonic() + _PATIENCE_S
    pause_s = _FIRST_PAUSE_S
    while time.monotonic() < deadline_s:
        execution = athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]
        if execution["Status"]["State"] in _ENDED:
            return execution
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    raise AthenaRefused(f"Athena has not ended {name} after {_PATIENCE_S:.0f} s; look at query {query}, and try again.")
