"""Servers that stand in for AWS, and what goes between them and the service: each a process of its own.

Storage clients may hold the interpreter while they wait, so a server in the same process would wait for itself.
"""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final
from urllib.parse import urlsplit

import boto3

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

REGION: Final = "eu-west-3"
_ROOT = Path(__file__).parents[2]
_LOCALSTACK = _ROOT / ".venv-localstack"
_START_S = 60.0
_END_S = 5.0


def s3_server(folder: Path) -> AbstractContextManager[str]:
    """The URL of a moto server (S3, SQS, SNS); what it says goes below `folder`."""
    return _moto(folder, "tests.support.moto_server")


def presigned_server(folder: Path) -> AbstractContextManager[str]:
    """The URL of a moto server that checks the rights of presigned URLs, too (`tests.support.presigned_server`)."""
    return _moto(folder, "tests.support.presigned_server")


def made_bucket(server: str, name: str) -> "S3Client":
    """A client of the server, on which it has made a bucket."""
    s3 = boto3.client("s3", endpoint_url=server, region_name=REGION)
    s3.create_bucket(Bucket=name, CreateBucketConfiguration={"LocationConstraint": REGION})
    return s3


def aws_server(folder: Path) -> AbstractContextManager[str]:
    """The URL of a moto server whose EMR runs what it is given (`tests.support.aws_server`), below `folder`."""
    return _moto(folder, "tests.support.aws_server", f"{folder / 'nodes'}")


@contextmanager
def localstack(folder: Path) -> Iterator[str]:
    """The URL of a LocalStack (S3, SQS, CloudFormation and what this makes); all that it writes goes below `folder`.

    Raises FileNotFoundError where its environment was not made.
    """
    if not (_LOCALSTACK / "ready").exists():
        raise FileNotFoundError(f"LocalStack is not installed; run `make {_LOCALSTACK.name}/ready`.")
    port = _free_port()
    # Apart from this checkout and from what the tests' own Python is told.
    command = [f"{_LOCALSTACK / 'bin' / 'python'}", "-I", f"{Path(__file__).parent / 'localstack_server.py'}"]
    with (
        (folder / "localstack.log").open("wb") as log,
        _command(command, f"{port}", f"{folder}", stdout=log, stderr=log),
    ):
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"


def reachable(server: str, queue_url: str) -> str:
    """A queue's URL at LocalStack, which names a host that nobody can look up, `sqs.REGION.` before an address."""
    return f"{server}{urlsplit(queue_url).path}"


@contextmanager
def server_before(upstream: str, module: str, folder: Path) -> Iterator[str]:
    """The URL of a server of this package that passes requests on to another, such as `tests.support.fault_proxy`."""
    with (
        (folder / f"{module}.log").open("wb") as log,
        _process(module, upstream, stdout=subprocess.PIPE, stderr=log) as process,
    ):
        assert process.stdout is not None
        yield process.stdout.readline().strip()


@contextmanager
def _moto(folder: Path, module: str, *arguments: str) -> Iterator[str]:
    port = _free_port()
    with (folder / "moto.log").open("wb") as log, _process(module, f"{port}", *arguments, stdout=log, stderr=log):
        _wait_for(port)
        yield f"http://127.0.0.1:{port}"


def _process(
    module: str, *arguments: str, stdout: IO[bytes] | int, stderr: IO[bytes]
) -> AbstractContextManager["subprocess.Popen[str]"]:
    return _command([sys.executable, "-m", module], *arguments, stdout=stdout, stderr=stderr)


@contextmanager
def _command(
    command: list[str], *arguments: str, stdout: IO[bytes] | int, stderr: IO[bytes]
) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen([*command, *arguments], stdout=stdout, stderr=stderr, text=True, cwd=_ROOT)
    try:
        yield process
    finally:
        # It may have children to end.
        process.terminate()
        try:
            process.communicate(timeout=_END_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def _wait_for(port: int) -> None:
    deadline_s = time.monotonic() + _START_S
    while time.monotonic() < deadline_s:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")
