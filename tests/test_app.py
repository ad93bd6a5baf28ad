"""The contract for app developers holds: its examples run with an uploader's rights and nothing else."""

import json
import re
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from pyspark.sql import SparkSession

from bootstrap.weights.weights import CompiledNetwork
from store.answers.answer import answer_key
from store.settings import load_settings
from streaming.service import stream_in
from tests.support import servers
from tests.support.app import BUCKET, CONTRACT, HOME, KEY_PATTERN, SUBJECT, App, app_of_a_person, blocks
from tests.support.doc_tables import reasons_table, with_table
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, with_featurizer


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    with app_of_a_person(tmp_path_factory.mktemp("app")) as app:
        yield app


def _asked(method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}, method=method)) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


@pytest.mark.processes
def test_an_app_uploads_and_reads_its_answers_as_the_contract_shows(
    app: App, spark: SparkSession, untrained: CompiledNetwork, tmp_path: Path
) -> None:
    settings = load_settings(
        home=f"s3://{BUCKET}/{HOME}", s3_endpoint=app.server, key_pattern=KEY_PATTERN, answers=True, trigger="200ms"
    )
    with_featurizer(settings, untrained)
    stop, run = threading.Event(), Run()
    stream = threading.Thread(target=stream_in, args=(spark, settings, False, stop, run.watcher, tmp_path))
    stream.start()
    try:
        photo, bad, by_curl = (f"{SUBJECT}/{name}" for name in ("kiwi/1.jpg", "kiwi/2.jpg", "3.jpg"))
        assert app.upload(bad, b"Buy kiwis.") == "Choose a photo: this file is none."
        assert app.upload(photo, jpeg(40, 30)) == "Received."
        # An upload whose answer was lost is tried again.
        assert app.upload(photo, jpeg(40, 30)) == "Received."
        [script] = blocks("sh")
        variables = {"BUCKET": BUCKET, "HOME_PREFIX": HOME, "KEY": by_curl, "PHOTO": "photo.jpg"}
        answer = json.loads(app.run("sh", "-c", script, **variables))
    finally:
        stop.set()
        stream.join()
    assert set(answer) == set(json.loads(blocks("json")[0]))
    assert (answer["key"], answer["outcome"]) == (by_curl, "photo")


def test_the_contracts_rights_end_at_the_persons_own_prefixes(app: App) -> None:
    s3 = boto3.client(
        "s3",
        endpoint_url=app.server,
        region_name=servers.REGION,
        aws_access_key_id=app.uploader["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=app.uploader["AWS_SECRET_ACCESS_KEY"],
        config=Config(signature_version="s3v4"),
    )

    def url(what: str, key: str) -> str:
        return s3.generate_presigned_url(what, {"Bucket": BUCKET, "Key": f"{HOME}/{key}"})

    own, others = f"{SUBJECT}/own.jpg", "bert-1/own.jpg"
    assert _asked("PUT", url("put_object", f"landing/{own}"), b"photo") == 200
    assert _asked("GET", url("get_object", f"answers/{own}.json")) == 403
    refused = [
        _asked("PUT", url("put_object", f"landing/{others}"), b"photo"),
        _asked("PUT", url("put_object", f"answers/{own}.json"), b"{}"),
        _asked("PUT", url("put_object", "state/erasures.json"), b"{}"),
        _asked("GET", url("get_object", f"landing/{own}")),
        _asked("GET", url("get_object", f"answers/{others}.json")),
        _asked("GET", url("get_object", "features/_delta_log/00000000000000000000.json")),
        _asked("DELETE", url("delete_object", f"landing/{own}")),
        _asked("GET", s3.generate_presigned_url("list_objects_v2", {"Bucket": BUCKET})),
    ]
    assert refused == [403] * len(refused)


def test_the_contracts_table_of_reasons_is_the_services_own() -> None:
    assert with_table(CONTRACT, "reasons", reasons_table()) == CONTRACT, "run python -m tests.support.doc_tables"


def test_the_contracts_keys_have_their_answer_beside_them() -> None:
    keys = re.findall(rf"{SUBJECT}/\S+\.jpg", CONTRACT)
    assert keys
    assert {answer_key(key) for key in keys} == {f"{key}.json" for key in keys}
    patterned = [re.search(KEY_PATTERN, key) for key in keys]
    assert {found and found["subject"] for found in patterned} == {SUBJECT}
    assert {found and found["label"] for found in patterned} == {"kiwi", None}
