"""The SQL files are what Athena takes, the tables what it reads; a deploy runs them all or says which one failed."""

import json
import urllib.request
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import boto3
import numpy as np
import obstore
import pytest
import sqlglot
from sqlglot import exp

from bootstrap.aws.athena import AthenaRefused, Definition, create_tables_and_views, definitions
from features.errors import InvalidSetting
from store.home import Home
from store.settings import load_settings
from store.state.plans import AddedFile
from store.tables.commits import commit
from store.tables.files import vectors_column, write_file
from store.tables.handles import create_tables
from store.tables.schemas import FEATURE_ROWS, PROJECTION_ROWS, REJECT_ROWS, TABLES, Table
from tests.conftest import REGION

if TYPE_CHECKING:
    from types_boto3_athena import AthenaClient
    from types_boto3_athena.type_defs import QueryExecutionTypeDef
    from types_boto3_glue import GlueClient

HOME = "s3://fruits-dev-123456789012-eu-west-3"
NAMES = [
    "features",
    "projections",
    "rejects",
    "labels",
    "pca_current",
    "said_labels",
    "photos",
    "current_projections",
    "ingested_photos",
    "arrivals",
]
# docs.aws.amazon.com/athena/latest/ug/delta-lake-tables-supported-data-types-columns.html, in Delta's words.
READABLE = {
    "boolean",
    "byte",
    "short",
    "integer",
    "long",
    "double",
    "float",
    "string",
    "binary",
    "date",
    "timestamp",
}
READABLE_PARTITIONS = READABLE - {"string", "binary"}


@pytest.fixture
def athena(s3_server: str) -> "AthenaClient":
    return boto3.client("athena", endpoint_url=s3_server, region_name=REGION)


@pytest.fixture
def glue(s3_server: str) -> "GlueClient":
    return boto3.client("glue", endpoint_url=s3_server, region_name=REGION)


@pytest.fixture
def database(glue: "GlueClient") -> str:
    name = f"fruits_{uuid.uuid4().hex[:12]}"
    glue.create_database(DatabaseInput={"Name": name})
    return name


@pytest.fixture
def work_group(athena: "AthenaClient") -> str:
    name = f"fruits-{uuid.uuid4().hex[:12]}"
    athena.create_work_group(Name=name)
    return name


@pytest.fixture
def slow_queries(s3_server: str) -> Iterator[None]:
    """Each look at a query sees it one state further: queued, running, succeeded."""
    _tell(s3_server, "set", {"model_name": "athena::execution", "transition": {"progression": "manual", "times": 1}})
    yield
    _tell(s3_server, "unset", {"model_name": "athena::execution"})


def _tell(server: str, what: str, body: dict[str, Any]) -> None:
    url = f"{server}/moto-api/state-manager/{what}-transition"
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 201


def _queries(athena: "AthenaClient", work_group: str) -> list["QueryExecutionTypeDef"]:
    """What was run in the work group, oldest first."""
    ids = athena.list_query_executions(WorkGroup=work_group)["QueryExecutionIds"]
    executions = [athena.get_query_execution(QueryExecutionId=each)["QueryExecution"] for each in ids]
    return sorted(executions, key=lambda execution: execution["Status"]["SubmissionDateTime"])


def _put_table(glue: "GlueClient", database: str, name: str, location: str) -> None:
    glue.create_table(
        DatabaseName=database, TableInput={"Name": name, "StorageDescriptor": {"Location": location, "Columns": []}}
    )


@pytest.mark.parametrize("definition", definitions(), ids=lambda definition: definition.file)
def test_a_file_holds_one_statement_that_creates_what_its_name_says(definition: Definition) -> None:
    [statement] = sqlglot.parse(definition.statement, read="athena")
    assert isinstance(statement, exp.Create)
    assert statement.kind == ("VIEW" if definition.is_view else "TABLE")
    assert statement.find(exp.Table).name == definition.name


def test_what_a_view_reads_is_created_before_it() -> None:
    assert [definition.name for definition in definitions()] == NAMES
    for number, definition in enumerate(definitions()):
        if definition.is_view:
            created = sqlglot.parse_one(definition.statement, read="athena").expression
            own = {part.alias for part in created.find_all(exp.CTE)}
            assert {table.name for table in created.find_all(exp.Table)} <= {*NAMES[:number], *own}


@pytest.mark.processes
def test_all_statements_run_one_after_the_other_and_a_replay_runs_the_same(
    athena: "AthenaClient", glue: "GlueClient", database: str, work_group: str, slow_queries: None
) -> None:
    said: list[str] = []

    def say(line: str) -> None:
        assert {query["Status"]["State"] for query in _queries(athena, work_group)} == {"SUCCEEDED"}
        said.append(line)

    create_tables_and_views(athena, glue, database, work_group, HOME, say)
    first = _queries(athena, work_group)
    assert [line.rpartition(".")[2] for line in said] == NAMES
    assert {query["QueryExecutionContext"]["Database"] for query in first} == {database}
    texts = [query["Query"] for query in first]
    for name, text in zip(NAMES, texts, strict=True):
        assert text.split(f" {name}")[0] in ("CREATE EXTERNAL TABLE IF NOT EXISTS", "CREATE OR REPLACE VIEW")
    locations = [text.split("LOCATION '")[1].split("'")[0] for text in texts if "LOCATION" in text]
    folders = ["features/", "projections/", "rejects/", "labels/", "models/pca/current/"]
    assert locations == [f"{HOME}/{folder}" for folder in folders]
    assert "$" not in "".join(texts)

    create_tables_and_views(athena, glue, database, work_group, HOME, say)
    assert [query["Query"] for query in _queries(athena, work_group)] == texts * 2


def test_a_table_that_lacks_a_column_of_today_is_dropped_and_created_again(
    athena: "AthenaClient", glue: "GlueClient", database: str, work_group: str
) -> None:
    for name, columns in {"features": ["image_id", "source"], "rejects": REJECT_ROWS.schema.names}.items():
        storage = {"Location": f"{HOME}/{name}/", "Columns": [{"Name": column, "Type": "string"} for column in columns]}
        glue.create_table(DatabaseName=database, TableInput={"Name": name, "StorageDescriptor": storage})

    create_tables_and_views(athena, glue, database, work_group, HOME, lambda _: None)

    texts = [query["Query"] for query in _queries(athena, work_group)]
    assert texts[0] == "DROP TABLE features"
    assert sum(text.startswith("DROP") for text in texts) == 1


def test_a_statement_that_fails_is_named_with_athenas_reason(
    athena: "AthenaClient", glue: "GlueClient", database: str, work_group: str
) -> None:
    # No query fails in moto, so the answer about one is changed on its way.
    def fail_the_third(response_dict: dict[str, Any], **_: object) -> None:
        body = json.loads(response_dict["body"])
        if " rejects" in body["QueryExecution"]["Query"]:
            status = {"State": "FAILED", "StateChangeReason": "DELTA_LAKE_ERROR: no transaction log."}
            body["QueryExecution"]["Status"] |= status
        response_dict["body"] = json.dumps(body).encode()

    athena.meta.events.register("before-parse.athena.GetQueryExecution", fail_the_third)
    with pytest.raises(AthenaRefused, match=r"03_rejects\.sql as FAILED .*: DELTA_LAKE_ERROR: no transaction log\."):
        create_tables_and_views(athena, glue, database, work_group, HOME, print)
    assert len(_queries(athena, work_group)) == 3


def test_a_missing_work_group_is_named(athena: "AthenaClient", glue: "GlueClient", database: str) -> None:
    with pytest.raises(AthenaRefused, match=r"01_features\.sql in the work group nowhere"):
        create_tables_and_views(athena, glue, database, "nowhere", HOME, print)


def test_a_table_of_another_home_is_refused_before_anything_runs(
    athena: "AthenaClient", glue: "GlueClient", database: str, work_group: str
) -> None:
    _put_table(glue, database, "features", f"{HOME}/features")
    _put_table(glue, database, "pca_current", "s3://another-home/models/pca/current/")
    with pytest.raises(AthenaRefused, match=r"pca_current reads s3://another-home/models/pca/current/ instead of"):
        create_tables_and_views(athena, glue, database, work_group, HOME, print)
    assert _queries(athena, work_group) == []


def test_tables_of_this_home_may_be_there(
    athena: "AthenaClient", glue: "GlueClient", database: str, work_group: str
) -> None:
    _put_table(glue, database, "features", f"{HOME}/features")
    create_tables_and_views(athena, glue, database, work_group, HOME, print)
    assert len(_queries(athena, work_group)) == len(NAMES)


@pytest.mark.parametrize(
    "home", ["./fruits-data", "s3://bucket/it's", "s3://bucket/${x}", "s3://bucket/a b", f"{HOME}/"]
)
def test_a_home_that_sql_cannot_hold_is_refused(
    athena: "AthenaClient", glue: "GlueClient", database: str, work_group: str, home: str
) -> None:
    with pytest.raises(InvalidSetting, match="give s3://bucket or s3://bucket/prefix"):
        create_tables_and_views(athena, glue, database, work_group, home, print)
    assert _queries(athena, work_group) == []


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with a batch of one photo, its projection and one reject."""
    home = load_settings(home=str(tmp_path_factory.mktemp("home"))).places()
    create_tables(home)
    at = datetime(2026, 10, 5, 12, tzinfo=UTC)
    shared = {"source": ["s3://b/k.jpg"], "arrived_at": [at], "batch": [1], "ingested_at": [at]}
    photo = shared | {"image_id": ["1"], "label": ["kiwi"], "subject": [None], "featurizer": ["abc"]}
    landed = {"etag": ["e"], "bytes": [1]}
    picture = {"format": ["JPEG"], "width": [1], "height": [1], "features": vectors_column(np.zeros((1, 1280), "f4"))}
    _commit(home, FEATURE_ROWS, photo | landed | picture)
    _commit(home, PROJECTION_ROWS, photo | {"pca": vectors_column(np.zeros((1, 4), "f4"))})
    _commit(home, REJECT_ROWS, shared | landed | {"reason": ["empty"], "detail": ["The file has no bytes."]})
    return home


def _commit(home: Home, table: Table, rows: dict[str, Any]) -> None:
    partition = {"pca_version": "1", "ingest_date": date(2026, 10, 5).isoformat()}
    added: AddedFile = write_file(home, table, rows, {name: partition[name] for name in table.partitioned_by})
    commit(home, table, 1, "a test", [added])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_is_one_that_athena_reads(committed: Home, table: Table) -> None:
    actions = _log(committed, table)
    [protocol] = [action["protocol"] for action in actions if "protocol" in action]
    assert (protocol["minReaderVersion"], protocol["minWriterVersion"]) == (1, 2)
    assert not protocol.get("readerFeatures") and not protocol.get("writerFeatures")
    [meta] = [action["metaData"] for action in actions if "metaData" in action]
    assert set(meta["configuration"]) == {
        "delta.dataSkippingStatsColumns",
        "delta.deletedFileRetentionDuration",
        "delta.logRetentionDuration",
    }
    adds = [action["add"] for action in actions if "add" in action]
    assert adds and not any(add.get("deletionVector") for add in adds)

    fields = {field["name"]: field for field in json.loads(meta["schemaString"])["fields"]}
    assert list(fields) == table.schema.names
    for field in fields.values():
        assert field["metadata"] == {}
        assert set(_scalars(field["type"])) <= READABLE
    assert {fields[name]["type"] for name in meta["partitionColumns"]} <= READABLE_PARTITIONS
    assert fields["arrived_at"]["type"] == fields["ingested_at"]["type"] == "timestamp"


def _scalars(kind: Any) -> Iterator[str]:
    """The types of all values in a column, also in its arrays and structs."""
    if isinstance(kind, str):
        yield kind
    elif kind["type"] == "array":
        yield from _scalars(kind["elementType"])
    else:
        assert kind["type"] == "struct"
        for field in kind["fields"]:
            yield from _scalars(field["type"])


def _log(home: Home, table: Table) -> list[dict[str, Any]]:
    place = home.root.child(table.name)
    paths = sorted(entry["path"] for page in obstore.list(place.store, "_delta_log") for entry in page)
    assert paths
    logs = [bytes(obstore.get(place.store, path).bytes()).decode() for path in paths if path.endswith(".json")]
    return [json.loads(line) for log in logs for line in log.splitlines()]
