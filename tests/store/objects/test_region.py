"""Nothing of a home lies outside the European Union, unless somebody said so."""

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING

import boto3
import pytest
from click.testing import Result
from typer.testing import CliRunner

from features.errors import FruitsError, InvalidSetting
from ops.cli.main import app
from store.errors import OutsideEurope, StorageRefused
from store.objects.region import EU_REGIONS, check_home, check_in_europe
from store.settings import Settings, load_settings

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MakeSettings = Callable[..., Settings]
ROOT = Path(__file__).parents[3]


@pytest.fixture
def overseas(s3_server: str) -> str:
    """The name of a new bucket in us-east-1."""
    name = f"overseas-{uuid.uuid4().hex[:12]}"
    boto3.client("s3", endpoint_url=s3_server, region_name="us-east-1").create_bucket(Bucket=name)
    return name


def _check(settings: Settings) -> list[str]:
    said: list[str] = []
    check_home(settings.locations(), settings.queue, settings.allow_region, said.append)
    return said


def _fruits(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


@pytest.mark.parametrize("region", EU_REGIONS)
def test_the_six_regions_are_fine(region: str) -> None:
    check_in_europe(region, "The bucket kiwis", None, pytest.fail)


@pytest.mark.parametrize("region", ["us-east-1", "eu-west-2", "eu-central-2", "ap-southeast-1", "EU", ""])
def test_others_are_refused_with_what_to_do(region: str) -> None:
    with pytest.raises(OutsideEurope) as refused:
        check_in_europe(region, "The bucket kiwis", "us-west-2", pytest.fail)
    sentence = str(refused.value)
    assert f"The bucket kiwis lies in {region}, outside the EU" in sentence
    assert f"--allow-region {region}" in sentence
    assert all(f"{name} ({city})" in sentence for name, city in EU_REGIONS.items())


def test_a_home_in_europe_passes_without_a_word(s3_settings: MakeSettings, queue_url: str) -> None:
    assert _check(s3_settings(queue=queue_url)) == []


def test_a_home_on_disk_is_not_looked_at(tmp_path: Path) -> None:
    code = (
        "import sys; from store.objects.region import check_home; from store.settings import load_settings; "
        f"check_home(load_settings(home={str(tmp_path)!r}).locations(), None, None, print); "
        "import ops.cli.main; print('boto3' in sys.modules)"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "False"


@pytest.mark.parametrize("place", ["home", "landing", "archive"])
def test_one_bucket_elsewhere_is_enough_to_refuse(s3_settings: MakeSettings, overseas: str, place: str) -> None:
    settings = s3_settings().model_copy(update={place: f"s3://{overseas}/somewhere"})
    with pytest.raises(OutsideEurope, match=f"The bucket {overseas} lies in us-east-1.*--allow-region us-east-1"):
        _check(settings)


def test_a_region_that_is_allowed_passes_and_is_said_once(s3_settings: MakeSettings, overseas: str) -> None:
    elsewhere = {"landing": f"s3://{overseas}/landing", "archive": f"s3://{overseas}/archive"}
    settings = s3_settings(allow_region="us-east-1").model_copy(update=elsewhere)
    assert _check(settings) == [f"The bucket {overseas} lies in us-east-1, outside the EU; allowed by allow_region."]


def test_another_region_than_the_allowed_one_is_refused(s3_settings: MakeSettings, overseas: str) -> None:
    settings = s3_settings(allow_region="us-west-2").model_copy(update={"landing": f"s3://{overseas}/landing"})
    with pytest.raises(OutsideEurope):
        _check(settings)


@pytest.mark.parametrize(
    "url",
    [
        "https://sqs.us-east-1.amazonaws.com/123456789012/landed",
        "https://vpce-0a1b-2c3d.sqs.us-east-1.vpce.amazonaws.com/123456789012/landed",
        "https://us-east-1.queue.amazonaws.com/123456789012/landed",
        "https://queue.amazonaws.com/123456789012/landed",
        "https://sqs.us-east-1.api.aws/123456789012/landed",
    ],
)
def test_a_queue_elsewhere_is_refused_by_its_url(s3_settings: MakeSettings, url: str) -> None:
    with pytest.raises(OutsideEurope, match=r"The queue https://.* lies in us-east-1"):
        _check(s3_settings(queue=url))


def test_a_queue_of_europe_is_not_asked(s3_settings: MakeSettings) -> None:
    assert _check(s3_settings(queue="https://sqs.eu-west-3.amazonaws.com/123456789012/landed")) == []


def test_a_queue_at_another_host_is_asked(s3_settings: MakeSettings, s3_server: str) -> None:
    elsewhere = boto3.client("sqs", endpoint_url=s3_server, region_name="us-east-1")
    url = elsewhere.create_queue(QueueName=f"overseas-{uuid.uuid4().hex[:12]}")["QueueUrl"]
    with pytest.raises(OutsideEurope, match="lies in us-east-1"):
        _check(s3_settings(s3_region="us-east-1", queue=url))
    with pytest.raises(InvalidSetting, match=r"There is no queue .*-gone; check --queue"):
        _check(s3_settings(queue=f"{url}-gone"))


def test_the_region_is_that_of_the_home_or_else_of_its_landing(s3_settings: MakeSettings, tmp_path: Path) -> None:
    settings = s3_settings(s3_region=None)
    on_disk = settings.model_copy(update={"home": str(tmp_path), "landing": settings.home})
    for each in (settings, on_disk):
        assert check_home(each.locations(), None, None, print) == "eu-west-3"


def test_what_is_no_queue_is_refused(s3_settings: MakeSettings) -> None:
    with pytest.raises(InvalidSetting, match="is no queue's URL"):
        _check(s3_settings(queue="landed"))


def test_a_bucket_that_is_not_there_is_refused(s3_settings: MakeSettings) -> None:
    settings = s3_settings().model_copy(update={"home": "s3://nobody-made-this/home"})
    with pytest.raises(StorageRefused, match="There is no bucket nobody-made-this"):
        _check(settings)


@pytest.fixture
def answering() -> Iterator[Callable[..., str]]:
    """Starts servers that give every request one answer, as S3 does without its bodies; returns their URLs."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, **headers: str) -> str:
        class Answer(BaseHTTPRequestHandler):
            def do_HEAD(self) -> None:
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("status", [301, 400, 403])
def test_the_region_counts_whatever_else_s3_answers(answering: Callable[..., str], status: int) -> None:
    def settings(region: str) -> Settings:
        url = answering(status, x_amz_bucket_region=region)
        return load_settings(home="s3://kiwis/home", s3_endpoint=url, s3_region="eu-west-3")

    assert _check(settings("eu-north-1")) == []
    with pytest.raises(OutsideEurope, match="The bucket kiwis lies in us-west-2"):
        _check(settings("us-west-2"))


@pytest.mark.parametrize(("status", "error"), [(200, OutsideEurope), (403, StorageRefused)])
def test_a_server_that_tells_no_region_is_refused(
    answering: Callable[..., str], status: int, error: type[FruitsError]
) -> None:
    settings = load_settings(home="s3://kiwis/home", s3_endpoint=answering(status), s3_region="eu-west-3")
    with pytest.raises(error, match="region"):
        _check(settings)


COMMANDS = [
    ("stream", "--drain"),
    ("stop",),
    ("weights", "untrained:7"),
    ("query", "SELECT 1"),
    ("status",),
    ("refit",),
    ("reproject",),
    ("refeaturize",),
    ("models",),
    ("models", "list"),
    ("models", "show", "1"),
    ("models", "compare", "1", "2"),
    ("models", "use", "1"),
    ("models", "prune"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_refuses_before_it_reads_or_writes_an_object(
    command: tuple[str, ...], overseas: str, s3_server: str, s3: "S3Client"
) -> None:
    answer = _fruits(*command, "--home", f"s3://{overseas}/home", "--s3-endpoint", s3_server)
    assert isinstance(answer.exception, OutsideEurope)
    assert str(answer.exception).startswith(f"The bucket {overseas} lies in us-east-1")
    assert s3.list_objects_v2(Bucket=overseas)["KeyCount"] == 0


def test_a_command_goes_on_in_a_region_that_is_allowed(
    overseas: str, s3_server: str, s3: "S3Client", monkeypatch: pytest.MonkeyPatch
) -> None:
    s3.put_object(Bucket=overseas, Key="home/state/home.json", Body=b'{"made_at": "2026-10-03T12:00:00Z"}')
    place = ("--home", f"s3://{overseas}/home", "--s3-endpoint", s3_server, "--s3-region", "us-east-1")
    allowed = f"The bucket {overseas} lies in us-east-1, outside the EU; allowed by allow_region.\n"
    by_flag = _fruits("status", *place, "--allow-region", "us-east-1")
    assert (by_flag.exit_code, by_flag.stderr) == (0, allowed)
    monkeypatch.setitem(os.environ, "FRUITS_ALLOW_REGION", "us-east-1")
    by_environment = _fruits("status", *place)
    assert (by_environment.exit_code, by_environment.stderr) == (0, allowed)
