"""The contract for app developers holds: its examples run with an uploader's rights and nothing else."""

import json
import os
import re
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from pyspark.sql import SparkSession

from bootstrap.weights.weights import CompiledNetwork
from store.answers.answer import answer_key
from store.settings import load_settings
from streaming.service import stream_in
from tests.support import servers
from tests.support.doc_tables import reasons_table, with_table
from tests.support.pictures import jpeg
from tests.support.stream_run import Run, with_featurizer

CONTRACT = (Path(__file__).parents[1] / "docs/app.md").read_text(encoding="utf-8")
BUCKET, HOME, SUBJECT = "photos-of-fruit", "fruits", "anna-4711"


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", CONTRACT, re.MULTILINE | re.DOTALL)


RIGHTS = _blocks("json")[-1]
KEY_PATTERN = re.search("--key-pattern '([^']+)'", CONTRACT)[1]  # type: ignore[index]


@dataclass(frozen=True)
class App:
    """A server of S3's protocol, the keys of the person's rights, and a folder with the contract's two programs."""

    server: str
    uploader: dict[str, str]
    folder: Path

    def run(self, *command: str, **variables: str) -> str:
        environment = os.environ | self.uploader | variables
        ended = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=60
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def urls(self, key: str) -> str:
        return self.run(sys.executable, "backend.py", BUCKET, HOME, key)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    folder = tmp_path_factory.mktemp("app")
    for program in _blocks("python"):
        (folder / program.split()[1]).write_text(program)
    with servers.presigned_server(folder) as server:
        servers.made_bucket(server, BUCKET)
        rights = RIGHTS.replace("BUCKET", BUCKET).replace("HOME", HOME).replace("SUBJECT", SUBJECT)
        uploader = _user(server, "uploader", json.loads(rights))
        yield App(server, uploader | {"AWS_ENDPOINT_URL": server}, folder)


def _user(server: str, name: str, rights: dict[str, Any]) -> dict[str, str]:
    iam = boto3.client("iam", endpoint_url=server, region_name=servers.REGION)
    iam.create_user(UserName=name)
    iam.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=json.dumps(rights))
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "AWS_DEFAULT_REGION": servers.REGION,
    }


def _asked(method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> int:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body, headers or {}, method=method)) as response:
            return int(response.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_an_app_uploads_and_reads_its_answers_as_the_contract_shows(
    app: App, spark: SparkSession, untrained: CompiledNetwork, tmp_path: Path
) -> None:
    settings = load_settings(
        home=f"s3://{BUCKET}/{HOME}", s3_endpoint=app.server, key_pattern=KEY_PATTERN, answers=True, trigger="200ms"
    )
    with_featurizer(settings, untrained)
    (app.folder / "kiwi.jpg").write_bytes(jpeg(40, 30))
    (app.folder / "notes.jpg").write_text("Buy kiwis.")
    stop, run = threading.Event(), Run()
    stream = threading.Thread(target=stream_in, args=(spark, settings, False, stop, run.watcher, tmp_path))
    stream.start()
    try:
        photo, bad, by_curl = (f"{SUBJECT}/{name}" for name in ("kiwi/1.jpg", "kiwi/2.jpg", "3.jpg"))
        assert app.run(sys.executable, "app.py", "kiwi.jpg", app.urls(photo)) == "Received."
        said = app.run(sys.executable, "app.py", "notes.jpg", app.urls(bad))
        assert said == "Choose a photo: this file is none."
        # An upload whose answer was lost is tried again.
        assert app.run(sys.executable, "app.py", "kiwi.jpg", app.urls(photo)) == "Received."
        [script] = _blocks("sh")
        variables = {"BUCKET": BUCKET, "HOME_PREFIX": HOME, "KEY": by_curl, "PHOTO": "kiwi.jpg"}
        answer = json.loads(app.run("sh", "-c", script, **variables))
    finally:
        stop.set()
        stream.join()
    assert set(answer) == set(json.loads(_blocks("json")[0]))
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
