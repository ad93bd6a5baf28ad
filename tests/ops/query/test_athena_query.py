"""`fruits query --athena` sends the file as it is with its parameters as literals, and shows what comes back."""

import json
import urllib.request
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
import yaml
from botocore.awsrequest import AWSResponse
from click.testing import Result
from typer.testing import CliRunner

from bootstrap.aws.athena import AthenaRefused
from bootstrap.aws.cloud import Cloud, connect
from bootstrap.aws.template import read_template
from features.errors import InvalidSetting
from ops.cli.main import app
from ops.query.athena_query import database_of, run_on_athena
from ops.query.named_queries import named_query
from store.errors import CloudRefused
from tests.conftest import REGION

if TYPE_CHECKING:
    from types_boto3_athena.type_defs import QueryExecutionTypeDef

TODAY = datetime.now(UTC).date()


@pytest.fixture
def cloud(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Cloud:
    """A stage with the work group that its stack makes."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server)
    cloud = connect(f"t{uuid.uuid4().hex[:8]}", REGION)
    cloud.athena.create_work_group(Name=cloud.stack_name)
    return cloud


def _results(server: str, results: list[tuple[list[dict[str, Any]], list[list[str | None]]]]) -> None:
    """What the next queries give: their columns, and their rows as Athena writes them, below a row of names."""
    answers = [
        {
            "column_info": [{"CatalogName": "hive"} | column for column in columns],
            "rows": [
                {"Data": [{} if text is None else {"VarCharValue": text} for text in row]}
                for row in ([column["Name"] for column in columns], *rows)
            ],
        }
        for columns, rows in results
    ]
    body = json.dumps({"region": REGION, "results": answers}).encode()
    url = f"{server}/moto-api/static/athena/query-results"
    with urllib.request.urlopen(urllib.request.Request(url, body, {"Content-Type": "application/json"})) as answer:
        assert answer.status == 201


def _run(cloud: Cloud) -> "QueryExecutionTypeDef":
    """The one query that was run in the stage's work group."""
    [identity] = cloud.athena.list_query_executions(WorkGroup=cloud.stack_name)["QueryExecutionIds"]
    return cloud.athena.get_query_execution(QueryExecutionId=identity)["QueryExecution"]


def _fruits(cloud: Cloud, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["query", *arguments, "--athena", "--stage", cloud.stage, "--region", REGION])


def test_the_names_are_those_that_the_stack_gives(cloud: Cloud) -> None:
    resources = yaml.load(read_template().text, yaml.BaseLoader)["Resources"]
    work_group = resources["WorkGroup"]["Properties"]["Name"]["Fn::Sub"]
    database = resources["Database"]["Properties"]["DatabaseInput"]["Name"]["Fn::Sub"]
    assert work_group.replace("${Stage}", cloud.stage) == cloud.stack_name
    assert database.replace("${Stage}", cloud.stage) == database_of(cloud)


@pytest.mark.parametrize(
    ("arguments", "literals"),
    [
        (("nearest", "--image", "it's ''\\", "--k", "3"), ["'it''s ''''\\'", "3"]),
        (("find", "--source", "été?"), ["'été?'", "20"]),
        (("arrivals", "--since=2026-10-31"), ["CAST('2026-10-31' AS date)"]),
        (("unknown", "--since=2026-10-31"), ["CAST('2026-10-31' AS date)", "0.99e0", "20"]),
        (("to_label", "--since=2026-10-31"), ["CAST('2026-10-31' AS date)", "false", "100"]),
        (("to_label", "--random", "--since=2026-10-31"), ["CAST('2026-10-31' AS date)", "true", "100"]),
    ],
)
def test_a_named_query_is_sent_as_its_file_is_with_its_parameters_as_literals(
    cloud: Cloud, s3_server: str, arguments: tuple[str, ...], literals: list[str]
) -> None:
    _results(s3_server, [([{"Name": "label", "Type": "varchar"}], [["kiwi"]])])
    answer = _fruits(cloud, *arguments, "--format", "csv")
    assert answer.exception is None
    assert (answer.stdout, answer.stderr) == ("label\nkiwi\n", "Athena read 0.00 MB.\n")
    sent = _run(cloud)
    assert (sent["Query"], sent["ExecutionParameters"]) == (named_query(arguments[0]).sql, literals)
    assert sent["QueryExecutionContext"] == {"Database": f"fruits_{cloud.stage}"}


def test_sql_is_sent_as_it_is(cloud: Cloud, s3_server: str) -> None:
    _results(s3_server, [([{"Name": "photos", "Type": "bigint"}], [["12"]])])
    answer = _fruits(cloud, "SELECT count(*) AS photos FROM photos", "--format", "json")
    assert json.loads(answer.stdout) == {"photos": 12}
    sent = _run(cloud)
    assert sent["Query"] == "SELECT count(*) AS photos FROM photos"
    assert "ExecutionParameters" not in sent


def test_no_row_is_told_in_a_sentence(cloud: Cloud, s3_server: str) -> None:
    _results(s3_server, [([{"Name": "label", "Type": "varchar"}], [])])
    answer = _fruits(cloud, "duplicates")
    assert answer.stderr.splitlines()[-1] == "No photo came more than once since that day."


def test_columns_have_their_types(cloud: Cloud, s3_server: str) -> None:
    cells: list[tuple[str, str, object, pa.DataType]] = [
        ("varchar", "", "", pa.string()),
        ("boolean", "true", True, pa.bool_()),
        ("integer", "-7", -7, pa.int64()),
        ("bigint", "9007199254740993", 9007199254740993, pa.int64()),
        ("double", "1.5E-7", 1.5e-7, pa.float64()),
        ("float", "Infinity", float("inf"), pa.float64()),
        ("decimal", "12.30", Decimal("12.30"), pa.decimal128(5, 2)),
        ("date", "2026-10-31", date(2026, 10, 31), pa.date32()),
        ("timestamp", "2026-10-31 12:00:00.123", datetime(2026, 10, 31, 12, 0, 0, 123000), pa.timestamp("us")),
        (
            "timestamp with time zone",
            "2026-10-31 12:00:00.123456 UTC",
            datetime(2026, 10, 31, 12, 0, 0, 123456, UTC),
            pa.timestamp("us", tz="UTC"),
        ),
        ("array", "[1.0, 2.0]", "[1.0, 2.0]", pa.string()),
    ]
    columns = [{"Name": f"c{number}", "Type": cell[0], "Precision": 5, "Scale": 2} for number, cell in enumerate(cells)]
    _results(s3_server, [(columns, [[cell[1] for cell in cells], [None] * len(cells)])])
    rows = run_on_athena(cloud, "the query", "SELECT 1").rows
    assert rows.schema.types == [cell[3] for cell in cells]
    assert [list(row.values()) for row in rows.to_pylist()] == [[cell[2] for cell in cells], [None] * len(cells)]


@pytest.mark.parametrize("zone", ["Europe/Paris", "+01:00"])
def test_a_time_of_another_zone_is_the_same_moment(cloud: Cloud, s3_server: str, zone: str) -> None:
    _results(s3_server, [([{"Name": "at", "Type": "timestamp with time zone"}], [[f"2026-10-31 12:00:00.000 {zone}"]])])
    rows = run_on_athena(cloud, "the query", "SELECT 1").rows
    assert rows["at"].to_pylist() == [datetime(2026, 10, 31, 11, tzinfo=UTC)]


def test_columns_of_one_name_keep_their_own_values(cloud: Cloud, s3_server: str) -> None:
    columns = [{"Name": "label", "Type": "varchar"}] * 2 + [{"Name": "_col2", "Type": "bigint"}]
    answers = {
        "csv": "label,label_1,_col2\nkiwi,lime,7\n",
        "json": '{"label": "kiwi", "label_1": "lime", "_col2": 7}\n',
    }
    for form, written in answers.items():
        _results(s3_server, [(columns, [["kiwi", "lime", "7"]])])
        assert _fruits(cloud, "SELECT a.label, b.label, 7", "--format", form).stdout == written


def test_all_pages_are_read(cloud: Cloud, s3_server: str) -> None:
    _results(s3_server, [([{"Name": "n", "Type": "integer"}], [["1"], ["2"], ["3"]])])
    asked_for: list[Any] = []

    # moto gives all rows at once, so its answer is cut in two on its way.
    def remember(params: dict[str, Any], **_: object) -> None:
        asked_for.append(json.loads(params["body"]).get("NextToken"))

    def cut(response_dict: dict[str, Any], **_: object) -> None:
        body = json.loads(response_dict["body"])
        rows = body["ResultSet"]["Rows"]
        if asked_for[-1] is None:
            body |= {"NextToken": "more"}
        body["ResultSet"]["Rows"] = rows[:3] if asked_for[-1] is None else rows[3:]
        response_dict["body"] = json.dumps(body).encode()

    cloud.athena.meta.events.register("before-call.athena.GetQueryResults", remember)
    cloud.athena.meta.events.register("before-parse.athena.GetQueryResults", cut)
    assert run_on_athena(cloud, "the query", "SELECT 1").rows["n"].to_pylist() == [1, 2, 3]
    assert asked_for == [None, "more"]


def test_a_query_that_fails_is_named_with_athenas_reason(cloud: Cloud) -> None:
    def fail(response_dict: dict[str, Any], **_: object) -> None:
        body = json.loads(response_dict["body"])
        body["QueryExecution"]["Status"] |= {"State": "FAILED", "StateChangeReason": "COLUMN_NOT_FOUND: line 1:8."}
        response_dict["body"] = json.dumps(body).encode()

    cloud.athena.meta.events.register("before-parse.athena.GetQueryExecution", fail)
    with pytest.raises(
        AthenaRefused, match=rf"ended labels as FAILED in the database fruits_{cloud.stage}: COLUMN_NOT"
    ):
        run_on_athena(cloud, "labels", "SELECT 1")


def test_an_interrupted_query_is_cancelled(cloud: Cloud) -> None:
    def interrupt(**_: object) -> None:
        raise KeyboardInterrupt

    cloud.athena.meta.events.register("before-call.athena.GetQueryExecution", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_on_athena(cloud, "labels", "SELECT 1")
    cloud.athena.meta.events.unregister("before-call.athena.GetQueryExecution", interrupt)
    assert _run(cloud)["Status"]["State"] == "CANCELLED"


@pytest.mark.parametrize(
    ("arguments", "kind", "sentence"),
    [
        (("labels", "--home", "./x"), InvalidSetting, "drop --home, and name the stage with --stage"),
        (("nearest",), InvalidSetting, "nearest needs --image"),
        (("labels", "--stage", "nowhere"), AthenaRefused, "WorkGroup does not exist. Check --stage and --region."),
        (("labels", "--stage", "No"), InvalidSetting, "A stage is"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(
    cloud: Cloud, arguments: tuple[str, ...], kind: type[Exception], sentence: str
) -> None:
    answer = CliRunner().invoke(app, ["query", "--athena", "--region", REGION, *arguments])
    assert isinstance(answer.exception, kind)
    assert sentence in str(answer.exception)


def test_without_athena_a_stage_means_nothing() -> None:
    answer = CliRunner().invoke(app, ["query", "labels", "--stage", "dev"])
    assert isinstance(answer.exception, InvalidSetting)
    assert "add --athena" in str(answer.exception)


def test_results_that_are_gone_are_one_sentence(cloud: Cloud) -> None:
    def refuse(**_: object) -> tuple[Any, dict[str, Any]]:
        told = {"Error": {"Code": "AccessDenied", "Message": "no access to the results."}}
        return AWSResponse("", 403, {}, None), told

    cloud.athena.meta.events.register("before-call.athena.GetQueryResults", refuse)
    with pytest.raises(CloudRefused, match=r"AWS did not run labels: no access to the results \(AccessDenied\)\."):
        run_on_athena(cloud, "labels", "SELECT 1")
