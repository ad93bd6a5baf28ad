"""What a node has after its bootstrap action: an interpreter that runs the stream and the refit, or what it had."""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyspark
import pytest

from bootstrap.aws.prices import Architecture
from bootstrap.aws.wheelhouse import CHECKOUT, INSTALL_SCRIPT, Wheelhouse, build_wheelhouse
from bootstrap.programs import use_java
from tests.conftest import REGION

if TYPE_CHECKING:
    from types_boto3_s3 import S3Client

# All need the one installation that takes half a minute.
pytestmark = [pytest.mark.deployment, pytest.mark.xdist_group("installed")]

BUCKET = "fruits-ops"
SMALL_BYTES = 1_000_000
SPARK_HOME = Path(pyspark.__file__).parent
OLD = "fruits-0123456789ab"


@dataclass(frozen=True)
class Artifacts:
    """A wheelhouse in a bucket, as a deployment leaves it."""

    endpoint: str
    s3: "S3Client"
    built: Wheelhouse

    @property
    def release(self) -> str:
        return f"fruits-{self.built.sha256[:12]}"

    @property
    def uri(self) -> str:
        return f"s3://{BUCKET}/wheelhouse.tar"


@dataclass(frozen=True)
class Node:
    """A machine of a cluster, as far as its bootstrap action sees it."""

    artifacts: Artifacts
    prefix: Path
    environment: dict[str, str] = field(default_factory=dict)
    region: str = REGION

    def install(self, uri: str | None = None, sha256: str | None = None) -> "subprocess.Popen[str]":
        command = ["/bin/bash", f"{INSTALL_SCRIPT}", uri or self.artifacts.uri, sha256 or self.artifacts.built.sha256]
        command.append(self.region)
        # Nothing of the tests' own Python but the aws command.
        tools = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        environment = {"PATH": tools, "AWS_ENDPOINT_URL": self.artifacts.endpoint}
        keys = {name: os.environ[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        return subprocess.Popen(
            [*command, f"{self.prefix}"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=environment | keys | self.environment,
            start_new_session=True,
        )

    def said(self, uri: str | None = None, sha256: str | None = None) -> tuple[int, str, str]:
        """The exit code of an installation, and what it wrote."""
        process = self.install(uri, sha256)
        output, message = process.communicate()
        return process.returncode, output, message

    @property
    def names(self) -> set[str]:
        """What is to be seen below the prefix."""
        return {path.name for path in self.prefix.iterdir() if not path.name.startswith(".fruits-install.")}

    @property
    def in_use(self) -> str:
        return str((self.prefix / "fruits").readlink())

    @property
    def python(self) -> Path:
        return self.prefix / "fruits" / "bin" / "python"


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory, s3_server: str, s3: "S3Client") -> Artifacts:
    architecture: Architecture = "arm64" if os.uname().machine in ("aarch64", "arm64") else "x86_64"
    built = build_wheelhouse(architecture, tmp_path_factory.mktemp("built"), print)
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.upload_file(f"{built.path}", BUCKET, "wheelhouse.tar")
    return Artifacts(s3_server, s3, built)


@dataclass(frozen=True)
class Installation:
    """What was seen of the bootstrap action when it was killed half-way, and of two that ran after it at once."""

    in_use_when_killed: str
    ended: list[tuple[int, str, str]]


@pytest.fixture(scope="module")
def installing(artifacts: Artifacts, tmp_path_factory: pytest.TempPathFactory) -> tuple[Node, Installation]:
    node = _node_with_an_old_release(artifacts, tmp_path_factory.mktemp("node"), SPARK_HOME=f"{SPARK_HOME}")
    (node.prefix / "fruits-ba9876543210").mkdir()
    first = node.install()
    while not list(node.prefix.glob(f"{artifacts.release}/lib/python3.11/site-packages/pyarrow")):
        assert first.poll() is None, first.communicate()
        time.sleep(0.01)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    in_use = node.in_use
    both = [node.install(), node.install()]
    said = [process.communicate() for process in both]
    return node, Installation(in_use, [(process.returncode, *words) for process, words in zip(both, said, strict=True)])


@pytest.fixture(scope="module")
def installed(installing: tuple[Node, Installation]) -> Node:
    """A node after the bootstrap action, with an older release in use and a yet older one left before."""
    return installing[0]


@pytest.fixture
def node(artifacts: Artifacts, tmp_path: Path) -> Node:
    """A node where an older release is in use."""
    return _node_with_an_old_release(artifacts, tmp_path / "opt")


def test_killed_half_way_it_leaves_what_was_in_use_and_starts_over_even_twice_at_once(
    installing: tuple[Node, Installation],
) -> None:
    node, seen = installing
    assert seen.in_use_when_killed == OLD
    installed = f"fruits install: {node.prefix}/fruits is now {node.artifacts.release}\n"
    assert sorted(seen.ended) == [(0, "", ""), (0, installed, "")]


def test_the_release_takes_the_place_of_the_one_in_use_which_is_kept(installed: Node) -> None:
    assert installed.in_use == installed.artifacts.release
    assert installed.names == {"fruits", installed.artifacts.release, OLD}


def test_everyone_can_read_it_and_nothing_is_left_to_compile(installed: Node) -> None:
    packages = installed.prefix / "fruits" / "lib" / "python3.11" / "site-packages"
    closed = [path for path in packages.rglob("*") if path.stat().st_mode & 0o444 != 0o444]
    assert closed == []
    ours = [
        path for room in ("features", "store", "streaming", "batch", "ops") for path in (packages / room).rglob("*.py")
    ]
    assert ours
    assert [path for path in ours if not (path.parent / "__pycache__" / f"{path.stem}.cpython-311.pyc").exists()] == []


@pytest.mark.parametrize("package", ["tensorflow", "duckdb", "pyspark"])
def test_it_has_no_package_that_nodes_do_not_need_or_bring_themselves(installed: Node, package: str) -> None:
    answer = subprocess.run([installed.python, "-I", "-c", f"import {package}"], capture_output=True, text=True)
    assert f"No module named '{package}'" in answer.stderr


def test_run_by_its_path_through_a_link_its_modules_do_not_hide_those_of_others(tmp_path: Path) -> None:
    for package in ("features", "store", "streaming", "batch", "bootstrap", "ops"):
        shutil.copytree(CHECKOUT / package, tmp_path / "release" / package)
    shutil.copy(CHECKOUT / "fruits_launcher.py", tmp_path / "release")
    (tmp_path / "release" / "ops" / "typer.py").write_text("raise SystemExit('not the library')\n")
    (tmp_path / "link").symlink_to("release")
    # As a wheel puts packages on the path of every script.
    environment = os.environ | {"PYTHONPATH": f"{tmp_path / 'link'}"}
    command = [sys.executable, f"{tmp_path}/link/ops/__main__.py", "refit", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    assert "--reproject" in done.stdout


def test_without_tensorflow_a_home_that_has_no_featurizer_is_refused_in_a_sentence(
    installed: Node, tmp_path: Path
) -> None:
    use_java()
    done = subprocess.run(
        [installed.python, "-m", "ops", "stream", "--home", f"{tmp_path}/home", "--drain"],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (SPARK_HOME / "python" / "lib").glob("*.zip")))},
    )
    assert done.returncode == 1
    assert "there is no TensorFlow here to compile one; run `fruits weights`" in done.stderr


def test_a_second_run_changes_nothing_and_needs_nothing(installed: Node) -> None:
    before = (installed.prefix / installed.artifacts.release).stat()
    offline = Node(installed.artifacts, installed.prefix, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"})

    assert offline.said() == (0, "", "")
    assert (installed.prefix / installed.artifacts.release).stat() == before


def test_going_back_to_the_release_before_only_moves_the_link(installed: Node, tmp_path: Path) -> None:
    (installed.prefix / OLD / ".fruits-finished").touch()

    assert installed.said(sha256=OLD.removeprefix("fruits-").ljust(64, "0"))[0] == 0
    assert installed.in_use == OLD
    assert installed.said()[0] == 0
    assert installed.in_use == installed.artifacts.release


def test_another_tar_than_the_one_deployed_is_refused(node: Node) -> None:
    wanted, other = "f" * 64, b"another tar"
    node.artifacts.s3.put_object(Bucket=BUCKET, Key="other.tar", Body=other)
    assert _failed(node, f"s3://{BUCKET}/other.tar", wanted) == (
        f"s3://{BUCKET}/other.tar has the SHA-256 {hashlib.sha256(other).hexdigest()}, not {wanted}; deploy again"
    )


def test_a_tar_that_is_not_there_is_named(node: Node) -> None:
    sentence = _failed(node, uri=f"s3://{BUCKET}/missing.tar")
    assert sentence.startswith(f"s3://{BUCKET}/missing.tar cannot be downloaded (fatal error: An error occurred (404)")
    assert sentence.endswith("see that it exists and that this machine's role may read it")


def test_a_wheel_that_is_not_in_the_tar_is_named(node: Node, tmp_path: Path) -> None:
    # All but the lock's first wheel, with which pip begins, and the large ones, to which it does not come.
    incomplete = _without(node.artifacts.built.path, "wheels/ai_edge_litert-", tmp_path / "incomplete.tar")
    node.artifacts.s3.upload_file(f"{incomplete}", BUCKET, "incomplete.tar")
    digest = hashlib.sha256(incomplete.read_bytes()).hexdigest()

    sentence = _failed(node, f"s3://{BUCKET}/incomplete.tar", digest)

    assert sentence.startswith("the packages of the lock cannot be installed (ERROR: No matching distribution found")
    assert "ai-edge-litert" in sentence


def test_a_machine_without_python_3_11_says_so(node: Node, tmp_path: Path) -> None:
    tools = tmp_path / "bin"
    tools.mkdir()
    for tool in ("mkdir", "rm", "flock"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    bare = Node(node.artifacts, node.prefix, {"PATH": f"{tools}"})

    assert _failed(bare) == (
        "there is no python3.11, nor dnf to install it with; install Python 3.11 with its venv module on this machine"
    )


def test_the_region_it_is_given_is_the_one_that_is_asked(node: Node, tmp_path: Path) -> None:
    # What runs in the aws command's place writes down where it would ask, and asks.
    tools, asked = tmp_path / "bin", tmp_path / "asked"
    tools.mkdir()
    aws = tools / "aws"
    aws.write_text(f'#!/bin/bash\necho "$AWS_REGION $AWS_DEFAULT_REGION" >{asked}\nexec {shutil.which("aws")} "$@"\n')
    aws.chmod(0o755)
    path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"

    _failed(Node(node.artifacts, node.prefix, {"PATH": path}, "eu-south-2"), uri=f"s3://{BUCKET}/missing.tar")

    assert asked.read_text() == "eu-south-2 eu-south-2\n"


def test_arguments_that_cannot_be_meant_are_refused(node: Node) -> None:
    assert _failed(node, sha256="latest") == "'latest' is no SHA-256; give 64 hexadecimal digits in lower case"
    elsewhere = Node(node.artifacts, node.prefix, region="here")
    assert _failed(elsewhere) == "'here' is no region; give one like eu-west-3"


def _node_with_an_old_release(artifacts: Artifacts, prefix: Path, **environment: str) -> Node:
    (prefix / OLD).mkdir(parents=True)
    (prefix / "fruits").symlink_to(OLD)
    return Node(artifacts, prefix, environment)


def _failed(node: Node, uri: str | None = None, sha256: str | None = None) -> str:
    """The sentence with which an installation failed that left the node as it was."""
    code, output, message = node.said(uri, sha256)
    assert (code, output) == (1, "")
    assert (node.in_use, node.names) == (OLD, {"fruits", OLD})
    (line,) = message.splitlines()
    assert line.startswith("fruits install: ")
    return line.removeprefix("fruits install: ")


def _without(tar: Path, name: str, path: Path) -> Path:
    with tarfile.open(tar) as whole, tarfile.open(path, "w") as part:
        for member in whole:
            if not member.name.startswith(name) and member.size < SMALL_BYTES:
                part.addfile(member, whole.extractfile(member))
    return path
