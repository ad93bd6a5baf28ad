"""Queries over the tables of a home, on this machine: the local Athena."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb
import pyarrow as pa
import sqlglot
from deltalake import DeltaTable
from duckdb.sqltypes import DuckDBPyType
from sqlglot import ErrorLevel, exp

from bootstrap.aws.athena import definitions
from features.errors import FruitsError
from store.errors import StateDamaged
from store.home import Home
from store.models.pca_models import Current, stored_pointer
from store.tables.handles import check_ingested, open_table, open_tables
from store.tables.schemas import ALL_TABLES, COPY_ROWS, LABEL_ROWS

CURRENT_PROJECTIONS = "current_projections"

_PCA_CURRENT = "pca_current"

_NOT_IN_ARROW = {"bignum", "bit", "geometry", "time with time zone", "uhugeint", "variant"}
_NESTED = {"array", "list", "map", "struct", "union"}

# What gives rows. Anything else would change a database that ends with the command; MULTI is a PIVOT.
_READS = {"SELECT", "EXPLAIN", "PRAGMA", "CALL", "MULTI"}


class InvalidQuery(FruitsError):
    """A query that cannot be run as written."""


def connect(home: Home) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection to the home's tables as they are now, with Athena's views and `pca_current`.

    The tables are `features`, `projections`, `rejects`, `labels` and `copies`; one that the home lacks is empty.
    Filters on partitions and numbers skip files; filters on times do so for tables, not for views. A query reads and
    writes no file of this machine.
    Raises NothingIngested when the home has no tables yet, StateDamaged, StorageUnavailable.
    """
    return connect_to(take_snapshot(home))


def connect_to(snapshot: "Snapshot") -> duckdb.DuckDBPyConnection:
    """The same for the tables of one moment."""
    connection = duckdb.connect(config={"enable_external_access": False})
    connection.execute("SET TimeZone = 'UTC'")
    for table in (*ALL_TABLES, COPY_ROWS):
        if table.name not in snapshot.tables:
            connection.register(table.name, table.schema.empty_table())
            continue
        dataset = snapshot.tables[table.name].to_pyarrow_dataset()
        # A table that no stream of this release has opened lacks the columns that were added since.
        missing = [table.schema.field(column) for column in table.missing_in(dataset.schema.names)]
        if missing:
            dataset = dataset.replace_schema(pa.schema([*dataset.schema, *missing]))
        connection.register(table.name, dataset)
    # What Athena finds in the pointer.
    served = {"serving": snapshot.models.serving, "featurizer": snapshot.models.featurizer}
    schema = pa.schema([("serving", pa.int32()), ("featurizer", pa.string())])
    connection.register(_PCA_CURRENT, pa.Table.from_pylist([served], schema=schema))
    for definition in definitions():
        if definition.is_view:
            connection.execute(_view_in_duckdb(definition.statement, served))
    return connection


def _view_in_duckdb(view: str, served: Mapping[str, object]) -> str:
    # DuckDB hands a constant down to the scan, which then skips files, but not what a subquery gives.
    parsed = sqlglot.parse_one(view, read="athena")
    for lookup in list(parsed.find_all(exp.Subquery)):
        if [table.name for table in lookup.find_all(exp.Table)] == [_PCA_CURRENT]:
            value = served[lookup.this.selects[0].name]
            around = lookup.parent
            found = lookup if value is None or not isinstance(around, exp.Coalesce) else around
            found.replace(exp.convert(value))
    return _with_duckdb_functions(parsed).sql(dialect="duckdb")


def to_duckdb(sql: str) -> str:
    """Translate a statement from Athena's dialect to DuckDB's; its `?` stay in their order.

    Raises InvalidQuery if it is not Athena's SQL, or if DuckDB has nothing like it.
    """
    try:
        statements = sqlglot.parse(sql, read="athena")
        if len(statements) != 1 or statements[0] is None:
            raise InvalidQuery("DuckDB cannot run this as Athena would: it must be one statement.")
        return _with_duckdb_functions(statements[0]).sql(dialect="duckdb", unsupported_level=ErrorLevel.RAISE)
    except sqlglot.errors.SqlglotError as error:
        raise InvalidQuery(f"DuckDB cannot run this as Athena would: {str(error).strip()}") from error


def _with_duckdb_functions(parsed: exp.Expr) -> exp.Expr:
    """Replace the functions that sqlglot (30.3) does not translate."""
    for fold in parsed.find_all(exp.Reduce):
        # DuckDB's fold has no last step, and needs none that changes nothing.
        last = fold.args.get("finish")
        if isinstance(last, exp.Lambda) and last.this == last.expressions[0]:
            fold.set("finish", None)
    # The innermost first: each takes along a copy of what it holds.
    for normal in reversed(list(parsed.find_all(exp.Normalize))):
        form = normal.args.get("form")
        # DuckDB knows no other form.
        if not form or form.name.upper() == "NFC":
            normal.replace(exp.func("nfc_normalize", normal.this))
    return parsed


@dataclass(frozen=True)
class Snapshot:
    """The tables by name as they stood at one moment, and the models that were served then.

    The table `labels` is left out in homes that no stream of this release has opened, `copies` in homes without copies.
    """

    tables: dict[str, DeltaTable]
    models: Current


def take_snapshot(home: Home) -> Snapshot:
    """The tables and the served model of one moment. Raises NothingIngested before there are any, StateDamaged."""
    while True:
        # A switch ends, and old versions are pruned, between one look and the next.
        models = stored_pointer(home)
        tables: dict[str, DeltaTable] = {}
        for name, handle in open_tables(home).handles.items():
            if handle is None:
                check_ingested(home)
                raise StateDamaged(
                    f"The table {home.root.child(name).uri} is missing, though batches were committed; restore it."
                )
            tables[name] = handle
        if (labels := open_table(home, LABEL_ROWS)) is not None:
            tables[LABEL_ROWS.name] = labels
        if stored_pointer(home) == models:
            return Snapshot(tables, models)


def run_query(connection: duckdb.DuckDBPyConnection, sql: str, values: Sequence[object] = ()) -> pa.Table:
    """The rows a query gives, its `?` bound to values. Raises InvalidQuery with the database's own words."""
    try:
        statements = connection.extract_statements(sql)
        if statements and statements[-1].type.name not in _READS:
            raise InvalidQuery("A query only reads: write a SELECT; rows come by `fruits stream` alone.")
        found = connection.sql(sql, params=list(values) or None)
        if found is None:
            raise InvalidQuery("The SQL is empty; write a SELECT, or name a query that `fruits query` lists.")
        return _in_arrow(found)
    except duckdb.Error as error:
        raise InvalidQuery(str(error).strip()) from error


def _in_arrow(found: duckdb.DuckDBPyRelation) -> pa.Table:
    """The rows; what Arrow would get as DuckDB's own bytes, or without its zone, as DuckDB's words for it."""
    names = [f"_{position}" for position in range(len(found.columns))]
    columns = [
        f"CAST({name} AS VARCHAR)" if _is_duckdbs_own(kind) else name
        for name, kind in zip(names, found.types, strict=True)
    ]
    if columns == names:
        return found.to_arrow_table()
    # By position: two columns may have one name.
    selected = found.query("found", f"SELECT {', '.join(columns)} FROM found AS t({', '.join(names)})")
    assert selected is not None, "a SELECT gives rows"
    return selected.to_arrow_table().rename_columns(found.columns)


def _is_duckdbs_own(kind: DuckDBPyType) -> bool:
    if kind.id in _NOT_IN_ARROW:
        return True
    # An enum's children are its values.
    return kind.id in _NESTED and any(
        _is_duckdbs_own(child) for _, child in kind.children if isinstance(child, DuckDBPyType)
    )
