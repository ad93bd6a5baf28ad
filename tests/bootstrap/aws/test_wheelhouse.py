"""The tar that nodes install from: the same every time, right for its architecture, and plain when it cannot be."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path
from typing import IO, get_args

import pytest

from bootstrap.aws.prices import Architecture
from bootstrap.aws.wheelhouse import CHECKOUT, LOCK_NAME, build_wheelhouse

NO_INDEX = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull}
BUILD = """
import os, sys
from pathlib import Path
from bootstrap.aws.wheelhouse import WheelhouseUnavailable, build_wheelhouse

os.umask(int(sys.argv[3]))
try:
    print(build_wheelhouse(sys.argv[1], Path(sys.argv[2]), lambda line: None).sha256)
except WheelhouseUnavailable as error:
    sys.exit(str(error))
"""


def test_the_wheel_gets_every_package_but_the_demo() -> None:
    packed = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    rooms = ("features", "store", "streaming", "batch", "bootstrap", "ops")
    folders = [file.parent.relative_to(CHECKOUT) for room in rooms for file in (CHECKOUT / room).rglob("__init__.py")]
    assert sorted(packed) == sorted({".".join(folder.parts) for folder in folders} - {"ops.demo"})


@pytest.mark.deployment
def test_the_same_sources_give_the_same_tar_whoever_builds_them_and_without_the_index(tmp_path: Path) -> None:
    here = _build(_checkout(tmp_path / "here", _locked("six")), "x86_64", umask=0o022)
    checkout = _checkout(tmp_path / "there", _locked("six"))
    for path in checkout.rglob("*"):
        path.chmod(0o775)
        os.utime(path, (1e9, 1e9))

    assert re.fullmatch(r"[0-9a-f]{64}", here)
    assert _build(checkout, "x86_64", **NO_INDEX) == here

    # Only what nodes run makes a release.
    (checkout / "bootstrap" / "aws" / "templates").mkdir(exist_ok=True)
    (checkout / "bootstrap/aws/templates/alarms.yaml").write_text("Description: another threshold of an alarm\n")
    assert _build(checkout, "x86_64", **NO_INDEX) == here

    (checkout / "ops" / "__main__.py").write_text("print('another release')\n")
    other = _build(checkout, "x86_64", **NO_INDEX)
    assert re.fullmatch(r"[0-9a-f]{64}", other)
    assert other != here


@pytest.mark.deployment
@pytest.mark.parametrize("architecture", get_args(Architecture))
def test_a_tar_holds_every_wheel_of_the_lock_for_its_architecture(architecture: Architecture, tmp_path: Path) -> None:
    built = build_wheelhouse(architecture, tmp_path, print)

    with tarfile.open(built.path) as tar:
        names = set(tar.getnames())
        (own,) = (name for name in names if name.startswith("project/"))
        with zipfile.ZipFile(_member(tar, own)) as wheel:
            assert {"streaming/executor/task.py", "ops/__main__.py", "fruits_launcher.py"} <= set(wheel.namelist())
        assert _member(tar, LOCK_NAME).read() == (CHECKOUT / LOCK_NAME).read_bytes()
        assert _member(tar, "install.sh").read() == (CHECKOUT / "bootstrap" / "aws" / "install.sh").read_bytes()
    wheels = [name.removeprefix("wheels/") for name in names if name.startswith("wheels/")]
    locked = re.findall(r"^([\w.-]+)==", (CHECKOUT / LOCK_NAME).read_text(), flags=re.MULTILINE)
    assert sorted(wheel.partition("-")[0].lower() for wheel in wheels) == sorted(
        name.replace("-", "_").replace(".", "_").lower() for name in locked
    )
    other = {"arm64": "x86_64", "x86_64": "aarch64"}[architecture]
    assert not [wheel for wheel in wheels if other in wheel]
    assert len(wheels) + 1 == built.wheels
    assert built.bytes == built.path.stat().st_size


@pytest.mark.deployment
def test_a_damaged_wheel_in_the_cache_is_downloaded_again(tmp_path: Path) -> None:
    checkout = _checkout(tmp_path, _locked("six"))
    whole = _build(checkout, "arm64", XDG_CACHE_HOME=f"{tmp_path}")
    (cached,) = (tmp_path / "fruits" / "wheels").iterdir()
    body = cached.read_bytes()
    cached.write_bytes(body[:-1] + b"!")

    assert _build(checkout, "arm64", XDG_CACHE_HOME=f"{tmp_path}") == whole
    assert cached.read_bytes() == body


def test_a_package_without_a_wheel_for_the_architecture_is_named(tmp_path: Path) -> None:
    sources_alone = "docopt==0.6.2 --hash=sha256:49b3a825280bd66b3aa83585ef59c4a8c82f2c8a522dbe754a8bc8d08c85c491\n"
    checkout = _checkout(tmp_path, sources_alone)

    assert _build(checkout, "arm64") == (
        "The package index has no wheel of docopt==0.6.2 for arm64, Python 3.11 and Amazon Linux 2023; choose a "
        "version that has one and run `make lock`, or choose another architecture."
    )


def test_an_index_out_of_reach_is_not_taken_for_a_missing_wheel(tmp_path: Path) -> None:
    checkout = _checkout(tmp_path, _locked("six"))

    assert _build(checkout, "arm64", XDG_CACHE_HOME=f"{tmp_path}", **NO_INDEX) == (
        "The package index does not answer, and not all wheels were downloaded before; "
        "check the network and pip's configuration, and run the command again."
    )


def test_outside_a_checkout_it_says_where_to_run_it(tmp_path: Path) -> None:
    checkout = _checkout(tmp_path)
    (checkout / LOCK_NAME).unlink()

    assert _build(checkout, "arm64") == (
        f"{checkout} has no {LOCK_NAME}: nodes are packed from a checkout of the project; run the command there."
    )


def _checkout(tmp_path: Path, lock: str | None = None) -> Path:
    """A copy of this checkout, with another lock if one is given."""
    copy = tmp_path / "checkout"
    copy.mkdir(parents=True)
    for package in ("features", "store", "streaming", "batch", "bootstrap", "ops"):
        shutil.copytree(CHECKOUT / package, copy / package)
    for file in ("pyproject.toml", "fruits_launcher.py"):
        shutil.copy(CHECKOUT / file, copy)
    (copy / LOCK_NAME).write_text(lock or (CHECKOUT / LOCK_NAME).read_text())
    return copy


def _locked(package: str) -> str:
    found = re.search(rf"^{package}==(?:.*\\\n)+.*\n", (CHECKOUT / LOCK_NAME).read_text(), flags=re.MULTILINE)
    assert found
    return found[0]


def _build(checkout: Path, architecture: str, umask: int = 0o077, **environment: str) -> str:
    """What a checkout's own code says of its build: the digest, or the sentence with which it failed."""
    command = [sys.executable, "-c", BUILD, architecture, f"{checkout}.out", f"{umask}"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=checkout, env=os.environ | environment)
    assert done.returncode == (1 if done.stderr else 0)
    return (done.stderr or done.stdout).strip()


def _member(tar: tarfile.TarFile, name: str) -> IO[bytes]:
    member = tar.extractfile(name)
    assert member is not None
    return member
