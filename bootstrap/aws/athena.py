"""What Athena shows of a home: the tables and views of the SQL files in `sql/`, in the order of their names."""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import TYPE_CHECKING, Any

from features.errors import FruitsError, InvalidSetting
from store.tables.schemas import TABLES, Table

if TYPE_CHECKING:
    from types_boto3_athena import AthenaClient
    from types_boto3_athena.type_defs import QueryExecutionTypeDef
    from types_boto3_glue import GlueClient

_FILE_NAME = re.compile(r"\d\d_(?P<name>[a-z_]+)\.sql")
_HOME = re.compile(r"s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[A-Za-z0-9._=-]+)*")
_LOCATION = re.compile(r"^LOCATION '([^']+)'$", re.MULTILINE)
_ENDED = ("SUCCEEDED", "FAILED", "CANCELLED")
_FIRST_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 2.0
_PATIENCE_S = 600.0


class AthenaRefused(FruitsError):
    """Athena did not carry out a statement, or a table of its catalog belongs to another home."""


@dataclass(frozen=True)
class Definition:
    """One SQL file: the table or view it creates, and its statement, which may hold the placeholder `${home}`."""

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
    say: Callable[[str], None],
) -> None:
    """Create what is missing in the database, and the views as they are now; the home's Delta tables must be there.

    `home_uri` is `s3://bucket[/prefix]`, without anything that SQL would need to escape; `say` hears of each file.
    Raises InvalidSetting for another home, AthenaRefused when a table is there that reads from elsewhere (before
    anything is changed), or with Athena's own reason when a statement fails.
    Replay changes nothing: tables stay unless they lack a column of today, views are replaced by the same.
    """
    if not _HOME.fullmatch(home_uri):
        raise InvalidSetting(f"Athena cannot read the home {home_uri!r}; give s3://bucket or s3://bucket/prefix.")
    statements = {d: Template(d.statement).substitute(home=home_uri) for d in definitions()}
    for definition, statement in statements.items():
        if not definition.is_view:
            _refuse_another_location(glue, database, definition.name, _location(statement))
    for table in TABLES:
        if table.missing_in(_columns(glue, database, table)):
            # Athena takes a Delta table's columns when it is created; the data stays where it is.
            run_statement(athena, database, work_group, f"DROP TABLE {table.name}", f"DROP TABLE {table.name}")
    for definition, statement in statements.items():
        run_statement(athena, database, work_group, definition.file, statement)
        say(f"Athena: {database}.{definition.name}")


def run_statement(
    athena: "AthenaClient",
    database: str,
    work_group: str,
    name: str,
    statement: str,
    literals: Sequence[str] = (),
) -> "QueryExecutionTypeDef":
    """Run one statement, called `name` in errors, and return its execution once it has succeeded.

    `literals` are the values of the statement's `?` in their order, each written as SQL writes it.
    Raises AthenaRefused with Athena's own reason. Who interrupts it cancels the statement, too.
    """
    values: dict[str, Any] = {"ExecutionParameters": list(literals)} if literals else {}
    try:
        query = athena.start_query_execution(
            QueryString=statement, QueryExecutionContext={"Database": database}, WorkGroup=work_group, **values
        )["QueryExecutionId"]
    except athena.exceptions.ClientError as error:
        told = str(error.response["Error"].get("Message", error)).rstrip(".")
        hint = " Check --stage and --region." if "workgroup" in told.lower() else ""
        raise AthenaRefused(f"Athena does not run {name} in the work group {work_group}: {told}.{hint}") from error
    try:
        execution = _ended(athena, query, name)
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


def _location(statement: str) -> str:
    [location] = _LOCATION.findall(statement)
    return str(location)


def _refuse_another_location(glue: "GlueClient", database: str, table: str, wanted: str) -> None:
    # IF NOT EXISTS would pass over such a table, and every query would read another home.
    try:
        there = glue.get_table(DatabaseName=database, Name=table)["Table"]
    except glue.exceptions.EntityNotFoundException:
        return
    location = there.get("StorageDescriptor", {}).get("Location", "")
    if location.rstrip("/") != wanted.rstrip("/"):
        raise AthenaRefused(
            f"The table {database}.{table} reads {location or 'nothing'} instead of {wanted}; "
            f"run DROP TABLE {table} in Athena, which leaves the data where it is, and try again."
        )


def _columns(glue: "GlueClient", database: str, table: Table) -> list[str]:
    """The columns that the catalog knows of a table; all of them of one that is not there."""
    try:
        there = glue.get_table(DatabaseName=database, Name=table.name)["Table"]
    except glue.exceptions.EntityNotFoundException:
        return list(table.schema.names)
    return [column["Name"] for column in there.get("StorageDescriptor", {}).get("Columns", [])] or list(
        table.schema.names
    )


def _ended(athena: "AthenaClient", query: str, name: str) -> "QueryExecutionTypeDef":
    deadline_s = time.monotonic() + _PATIENCE_S
    pause_s = _FIRST_PAUSE_S
    while time.monotonic() < deadline_s:
        execution = athena.get_query_execution(QueryExecutionId=query)["QueryExecution"]
        if execution["Status"]["State"] in _ENDED:
            return execution
        time.sleep(pause_s)
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
    raise AthenaRefused(f"Athena has not ended {name} after {_PATIENCE_S:.0f} s; look at query {query}, and try again.")
