"""Builds the file from which every node of a cluster installs the project, offline and checked."""

import hashlib
import importlib.util
import os
import re
import shutil
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bootstrap.aws.prices import Architecture
from bootstrap.pip import pip_error, run_pip
from features.errors import FruitsError

CHECKOUT = Path(__file__).parents[2]
INSTALL_SCRIPT = Path(__file__).with_name("install.sh")
LOCK_NAME = "requirements-cluster.lock"
TAR_NAME = "wheelhouse.tar"

NODE_PYTHON = "3.11"
# Amazon Linux 2023 has glibc 2.34. Wheels are tagged with the oldest glibc they run on, the first such tag being 2.5.
_MACHINES: Mapping[Architecture, str] = {"arm64": "aarch64", "x86_64": "x86_64"}
# The last three are older names of some of them; pip compares names.
_PLATFORM_TAGS = (
    *(f"manylinux_2_{minor}" for minor in range(34, 4, -1)),
    *("manylinux2014", "manylinux2010", "manylinux1"),
)
# The earliest time that a zip file can hold.
_BUILD_TIME_S = 315_532_800


class WheelhouseUnavailable(FruitsError):
    """What the nodes of a cluster install could not be built."""


@dataclass(frozen=True)
class Wheelhouse:
    """A tar of everything that `install.sh` needs; `sha256` is of its bytes and names the release."""

    path: Path
    sha256: str
    bytes: int
    wheels: int


def build_wheelhouse(architecture: Architecture, folder: Path, echo: Callable[[str], None]) -> Wheelhouse:
    """Pack this checkout's wheel, the wheels of its lock for Amazon Linux 2023, and install.sh into `folder`.

    folder: made if it does not exist; gets wheelhouse.tar.
    Downloaded wheels are kept in `fruits/wheels` of the user's cache directory. Each is compared with the lock every
    time; no request goes to the package index if all are there.
    Replay gives the same bytes while modules, lock, install.sh and build tools are the same.
    Raises WheelhouseUnavailable outside a checkout, when the project's wheel cannot be built, when the package index
    does not answer, and when it has no wheel of a package for the architecture.
    """
    if not (CHECKOUT / LOCK_NAME).exists():
        raise WheelhouseUnavailable(
            f"{CHECKOUT} has no {LOCK_NAME}: nodes are packed from a checkout of the project; run the command there."
        )
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        downloaded = _download(architecture, Path(scratch, "downloaded"), echo)
        echo("Building the project's wheel.")
        own = build_wheel(Path(scratch))
        members = {
            LOCK_NAME: CHECKOUT / LOCK_NAME,
            INSTALL_SCRIPT.name: INSTALL_SCRIPT,
            f"project/{own.name}": own,
            **{f"wheels/{wheel.name}": wheel for wheel in downloaded},
        }
        packed = Path(scratch, TAR_NAME)
        _pack(members, packed)
        with packed.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = packed.replace(folder / TAR_NAME)
    built = Wheelhouse(path, digest, path.stat().st_size, len(downloaded) + 1)
    echo(f"Packed {built.wheels} wheels for {architecture}: {built.bytes / 1e6:,.0f} MB, {digest[:12]}.")
    return built


def build_wheel(folder: Path) -> Path:
    """The project's own wheel for nodes in `folder`, an existing directory, from a copy of the checkout's modules.

    The stack's template, prices and SQL are left out: no node reads them, and each change of the wheel is a release
    for which the cluster is replaced.
    The same modules and build tools give the same bytes. Raises WheelhouseUnavailable.
    """
    if not (CHECKOUT / "pyproject.toml").exists():
        raise WheelhouseUnavailable(
            f"{CHECKOUT} has no pyproject.toml: the wheel is built in a checkout of the project; run the command there."
        )
    if importlib.util.find_spec("setuptools") is None:
        raise WheelhouseUnavailable(
            f"{sys.executable} has no setuptools to build the wheel with; use the .venv that `make` sets up."
        )
    # A copy, so that building writes nothing into the checkout and takes nothing from an older build.
    sources, wheels = folder / "sources", folder / "wheel"
    sources.mkdir()
    shutil.copyfile(CHECKOUT / "pyproject.toml", sources / "pyproject.toml")
    packed = tomllib.loads((sources / "pyproject.toml").read_text())["tool"]["setuptools"]
    modules = [CHECKOUT / f"{name}.py" for name in packed["py-modules"]]
    for module in [*modules, *(module for name in packed["packages"] for module in (CHECKOUT / name).rglob("*.py"))]:
        copy = sources / module.relative_to(CHECKOUT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(module, copy)
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", f"{wheels}"]
    done = run_pip("wheel", *options, f"{sources}", environment={"SOURCE_DATE_EPOCH": f"{_BUILD_TIME_S}"})
    if done.returncode:
        raise WheelhouseUnavailable(f"The project's wheel cannot be built: {pip_error(done.stderr)}")
    (wheel,) = wheels.glob("*.whl")
    return wheel


def _download(architecture: Architecture, folder: Path, echo: Callable[[str], None]) -> list[Path]:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "fruits", "wheels")
    cache.mkdir(parents=True, exist_ok=True)
    options = [
        *("--only-binary=:all:", "--require-hashes", "--requirement", f"{CHECKOUT / LOCK_NAME}"),
        *("--python-version", NODE_PYTHON, "--implementation", "cp", "--dest", f"{folder}"),
        *(f"--platform={tag}_{_MACHINES[architecture]}" for tag in _PLATFORM_TAGS),
    ]
    if run_pip("download", "--no-index", "--find-links", f"{cache}", *options).returncode:
        echo(f"Downloading the wheels of {LOCK_NAME} for {architecture}.")
        done = run_pip("download", "--retries=2", *options)
        if done.returncode:
            raise WheelhouseUnavailable(_why_not_downloaded(architecture, done.stderr))
        for wheel in folder.glob("*.whl"):
            # Under another name first: another process that builds now sees a whole wheel or none.
            with tempfile.TemporaryDirectory(dir=cache) as scratch:
                shutil.copyfile(wheel, Path(scratch, wheel.name)).replace(cache / wheel.name)
    return sorted(folder.glob("*.whl"))


def _why_not_downloaded(architecture: Architecture, standard_error: str) -> str:
    if re.search(r"Retrying \(|Could not fetch URL", standard_error):
        return (
            "The package index does not answer, and not all wheels were downloaded before; "
            "check the network and pip's configuration, and run the command again."
        )
    if missing := re.search(r"No matching distribution found for ([^\s;]+)", standard_error):
        return (
            f"The package index has no wheel of {missing[1]} for {architecture}, Python {NODE_PYTHON} and Amazon Linux "
            "2023; choose a version that has one and run `make lock`, or choose another architecture."
        )
    return f"The wheels of {LOCK_NAME} cannot be downloaded: {pip_error(standard_error)}"


def _pack(members: Mapping[str, Path], path: Path) -> None:
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, file in sorted(members.items()):
            # Only the file's bytes: all else of a new entry is always the same.
            entry = tarfile.TarInfo(name)
            entry.size = file.stat().st_size
            with file.open("rb") as body:
                tar.addfile(entry, body)
