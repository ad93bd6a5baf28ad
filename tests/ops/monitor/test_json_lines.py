"""What a log collector gets of a stream, and that no name of a photo or a person is in it, whatever goes wrong."""

import json
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from features.task_errors import TaskFailed, carried_error, carry_errors, last_words
from ops.monitor.json_lines import JsonLines, without_photo
from store.errors import StorageRefused
from store.objects.operations import read
from store.settings import Settings, load_settings
from store.state.plans import BatchCounters
from streaming.micro_batch import BatchReport
from tests.support.fault_proxy import Rule, s3_error, set_rules
from tests.support.pictures import jpeg, text_file
from tests.support.stream_run import rows, stream_process

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

MakeSettings = Callable[..., Settings]
SECRET = ("zz-anna", "zz-durian", "zz-IMG")
KEY = "zz-anna/zz-durian/zz-IMG: {}.jpg"


@pytest.mark.processes
def test_a_stream_tells_each_stage_and_names_nobody_also_when_it_fails(
    s3_settings: MakeSettings, proxy: str, s3: "S3Client"
) -> None:
    settings = s3_settings(key_pattern="^(?P<subject>[^/]+)/(?P<label>[^/]+)/")
    bucket, prefix = settings.places().landing.bucket_and_prefix

    def land(name: str, body: bytes) -> None:
        s3.put_object(Bucket=bucket, Key=f"{prefix}/{KEY.format(name)}", Body=body)

    for number in range(3):
        land(str(number), jpeg(seed=number))
    land("notes", text_file())
    output, lines = "", list[dict[str, Any]]()
    with stream_process(settings, "--key-pattern", settings.key_pattern, endpoint=proxy) as process:
        assert process.stdout is not None
        while not any(line["event"] == "batch" for line in lines):
            output += (line := process.stdout.readline())
            lines.append(json.loads(line))
        heartbeat = _beat_with_batch(settings)
        unknown = s3_error("InvalidAccessKeyId", "The access key does not exist.")
        set_rules(proxy, Rule("GET", "/landing/zz-anna", answer=403, body=unknown, times=-1))
        land("late", jpeg(seed=9))
        rest, message = process.communicate(timeout=90)

    lines += map(json.loads, rest.splitlines())
    assert process.returncode == 1
    assert [line["event"] for line in lines[:6]] == ["start", "ready", "stage", "stage", "stage", "batch"]
    assert [(line["batch"], line["stage"]) for line in lines[2:5]] == [(1, "plan"), (1, "work"), (1, "commit")]
    assert {line["time"][-1] for line in lines} == {"Z"}
    assert (lines[5]["photos"], lines[5]["rejects"]) == (3, {"not_an_image": 1})
    failed = lines[-1]
    assert (failed["event"], failed["level"], failed["error"]) == ("failed", "error", "StorageRefused")
    assert failed["message"].startswith(f"Cannot read {settings.places().landing.uri}/…: The access key does not exist")
    assert message == f"fruits: {failed['message']}\n"
    end = read(settings.places().state, "stream.json").decode()
    assert json.loads(end)["error"] == "StorageRefused"
    assert [word for word in SECRET if word in output + rest + message + heartbeat + end] == []
    assert rows(settings, "SELECT DISTINCT subject, label FROM features") == [
        {"subject": "zz-anna", "label": "zz-durian"}
    ]


def _beat_with_batch(settings: Settings) -> str:
    gives_up_at_s = time.monotonic() + 60
    while '"photos": 3' not in (beat := read(settings.places().state, "stream.json").decode()):
        assert time.monotonic() < gives_up_at_s, beat
        time.sleep(0.2)
    return beat


LANDING = "s3://bucket/home/landing"


@pytest.mark.parametrize(
    ("sentence", "photo", "told"),
    [
        ("The stream has stopped.", None, "The stream has stopped."),
        (
            f"Cannot read {LANDING}/anna: 1.jpg: Slow (SlowDown).",
            "anna: 1.jpg",
            f"Cannot read {LANDING}/…: Slow (SlowDown).",
        ),
        (
            f"Cannot read {LANDING}/anna/1.jpg for 120 s, nor any other photo: Slow. Start again once storage answers.",
            "anna/1.jpg",
            f"Cannot read {LANDING}/… for 120 s, nor any other photo: Slow. Start again once storage answers.",
        ),
        (
            f"Cannot read {LANDING}/anna/1.jpg: Object at location home/landing/anna/1.jpg is archived: No.",
            "anna/1.jpg",
            f"Cannot read {LANDING}/….",
        ),
        (f"Cannot read {LANDING}/anna/1.jpg: GET http://host/anna%2F1.jpg", "anna/1.jpg", f"Cannot read {LANDING}/…."),
        ("It is told in a way that nobody foresaw: anna%2F1.jpg", "anna/1.jpg", "…"),
    ],
)
def test_the_name_of_a_photo_is_left_out_of_a_sentence(sentence: str, photo: str | None, told: str) -> None:
    rest = " The photo's name is left out of the log; --debug shows it." if photo else ""
    assert without_photo(sentence, photo) == told + rest


@pytest.mark.parametrize("work", [lambda: _fail(), lambda: list(_fail_late())], ids=["function", "generator"])
def test_an_error_of_a_task_comes_to_the_driver_with_its_class_and_its_photo(work: Callable[[], object]) -> None:
    with pytest.raises(TaskFailed) as failed:
        work()
    told = "Lost task 0.3\n" + "".join(traceback.format_exception(failed.value)) + "\n\tat org.apache.spark\n"
    error = carried_error(Exception(told))
    assert (type(error), str(error)) == (StorageRefused, "Cannot read kiwi/\nü.jpg: No.")
    assert error is not None
    assert (error.photo, error.retryable) == ("kiwi/\nü.jpg", False)
    assert last_words(Exception(told)) == "Cannot read kiwi/\nü.jpg: No"
    assert carried_error(ValueError("store.errors.StorageRefused: No.")) is None


@carry_errors
def _fail() -> None:
    raise StorageRefused("Cannot read kiwi/\nü.jpg: No.", photo="kiwi/\nü.jpg")


@carry_errors
def _fail_late() -> Iterator[int]:
    yield 1
    _fail.__wrapped__()  # type: ignore[attr-defined]


def test_an_error_keeps_its_kind_and_a_program_error_names_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = load_settings(home=str(tmp_path))
    photo = settings.places().landing.directory / "zz-anna: 1.jpg"
    with pytest.raises(StorageRefused, match=r"landing/…: No\.") as refused, JsonLines(settings):
        raise StorageRefused(f"Cannot read {photo}: No.", photo="zz-anna: 1.jpg")
    with pytest.raises(Exception, match="Unexpected FileExistsError") as unexpected, JsonLines(settings):
        raise FileExistsError(17, "File exists", str(photo))
    told = capsys.readouterr()
    assert "zz-anna" not in f"{told.out}{told.err}{refused.value}{unexpected.value}"
    assert [json.loads(line)["event"] for line in told.out.splitlines()] == ["start", "failed"] * 2


def test_no_setting_that_could_hold_a_secret_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = "http://user:zz-word@127.0.0.1:9"
    settings = load_settings(
        home="s3://bucket", landing="s3://photos", s3_endpoint=endpoint, alarm_email="zz-anna@example.com"
    )
    with JsonLines(settings) as lines:
        lines.warn("CloudWatch takes no metrics, the stream goes on: No.")
    told = capsys.readouterr().out
    assert "zz-" not in told
    start, warning, end = map(json.loads, told.splitlines())
    assert (start["settings"]["home"], start["settings"]["trigger"]) == ("s3://bucket", "PT2S")
    assert (warning["level"], warning["message"]) == ("warning", "CloudWatch takes no metrics, the stream goes on: No.")
    assert (end["event"], end["batches"], end["photos"], end["rejects"]) == ("end", 0, 0, 0)
    assert end["photos_per_s"] is None
    assert end["seconds"] >= 0


def test_the_last_line_tells_what_was_done_and_how_fast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = BatchReport(1, 30, (), {"empty": 2}, False, 0.0, 2.0, 0.4, BatchCounters(), 3.0)
    with JsonLines(load_settings(home=str(tmp_path))) as lines:
        lines.watcher.on_stage(1, "plan", 2.0)
        lines.watcher.on_batch(report)
    end = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (end["event"], end["batches"], end["photos"], end["rejects"]) == ("end", 1, 30, 2)
    assert end["photos_per_s"] == pytest.approx(15, rel=0.05)
