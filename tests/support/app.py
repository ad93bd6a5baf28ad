"""The app of docs/app.md: its two programs, run with an uploader's rights against a server of S3's protocol."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3

from tests.support import servers

CONTRACT = (Path(__file__).parents[2] / "docs/app.md").read_text(encoding="utf-8")
BUCKET, HOME, SUBJECT = "photos-of-fruit", "fruits", "anna-4711"
KEY_PATTERN: str = re.search("--key-pattern '([^']+)'", CONTRACT)[1]  # type: ignore[index]


def blocks(language: str) -> list[str]:
    """The contract's blocks of code in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", CONTRACT, re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class App:
    """A server of S3's protocol, the keys of a person's rights, and a folder with the contract's two programs."""

    server: str
    uploader: dict[str, str]
    folder: Path

    def run(self, *command: str, **variables: str) -> str:
        """What a command of the app, or of its backend, says."""
        environment = os.environ | self.uploader | variables
        ended = subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False, timeout=120
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.strip()

    def urls(self, key: str) -> str:
        """What the backend gives the app for a photo."""
        return self.run(sys.executable, "backend.py", BUCKET, HOME, key)

    def upload(self, key: str, body: bytes) -> str:
        """What the app tells the person about a photo."""
        (self.folder / "photo.jpg").write_bytes(body)
        return self.run(sys.executable, "app.py", "photo.jpg", self.urls(key))


@contextmanager
def app_of_a_person(folder: Path) -> Iterator[App]:
    """An app whose rights end at one person's prefixes, as the contract has them."""
    for program in blocks("python"):
        (folder / program.split()[1]).write_text(program)
    with servers.presigned_server(folder) as server:
        servers.made_bucket(server, BUCKET)
        rights = blocks("json")[-1].replace("BUCKET", BUCKET).replace("HOME", HOME).replace("SUBJECT", SUBJECT)
        yield App(server, _user(server, json.loads(rights)) | {"AWS_ENDPOINT_URL": server}, folder)


def _user(server: str, rights: dict[str, Any]) -> dict[str, str]:
    iam = boto3.client("iam", endpoint_url=server, region_name=servers.REGION)
    iam.create_user(UserName="uploader")
    iam.put_user_policy(UserName="uploader", PolicyName="rights", PolicyDocument=json.dumps(rights))
    key = iam.create_access_key(UserName="uploader")["AccessKey"]
    return {
        "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
        "AWS_DEFAULT_REGION": servers.REGION,
    }
