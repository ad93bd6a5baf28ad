"""What is installed: all that is imported, nothing for a demo that only tests need, each checked against a hash."""

import ast
import re
import sys
import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("features", "store", "streaming", "batch", "bootstrap", "ops")
# What prints the slides and runs the tour.
MAKES_DOCUMENTS = [ROOT / "ops" / "demo" / name for name in ("slides.py", "tour.py")]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNS = [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["laptop"]]
TESTS = PROJECT["optional-dependencies"]["dev"]
# A part that another package stands for.
BROUGHT = {
    "pydantic_core": "pydantic",
    "keras": "tensorflow",
    "h5py": "tensorflow",
    "py4j": "pyspark",
    "flatbuffers": "ai-edge-litert",
}


def _name(requirement: str) -> str:
    found = re.match(r"[\w.-]+", requirement)
    assert found
    return found.group().lower().replace("_", "-")


def _imported(file: Path) -> set[str]:
    names = set()
    tree = ast.parse(file.read_text())
    # What only mypy reads is no import.
    tree.body = [
        node for node in tree.body if not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test))
    ]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(str(node.module).split(".")[0])
    ours = {path.stem for path in ROOT.iterdir() if path.is_dir() or path.suffix == ".py"}
    return names - ours - set(sys.stdlib_module_names)


def _distributions(files: list[Path]) -> set[str]:
    known = _known()
    imported = set().union(*(_imported(file) for file in files))
    return {_name(BROUGHT.get(name, known.get(name, [name])[0])) for name in imported}


@cache
def _known() -> Mapping[str, list[str]]:
    """The distributions of each module that is installed: to find them takes seconds."""
    return packages_distributions()


def _locked(lock: str) -> dict[str, str]:
    """Each pinned requirement of a lock file, and what stands beside it: its marker and hashes."""
    text = (ROOT / lock).read_text()
    blocks = re.split(r"^(?=\S+==)", re.sub(r"^ *#.*\n", "", text, flags=re.M), flags=re.M)
    return {_name(block): block for block in blocks if block.strip()}


def test_what_runs_is_declared() -> None:
    files = [file for room in ROOMS for file in sorted((ROOT / room).rglob("*.py")) if file not in MAKES_DOCUMENTS]
    assert _distributions(files) <= {_name(requirement) for requirement in RUNS}


def test_what_tests_and_makes_documents_is_declared() -> None:
    files = [*MAKES_DOCUMENTS, *sorted((ROOT / "tests").rglob("*.py"))]
    declared = {_name(requirement) for requirement in (*RUNS, *TESTS)}
    assert _distributions(files) <= declared


def test_a_demo_installs_no_tool_that_only_tests_need() -> None:
    needed = {_name(requirement) for requirement in RUNS}
    also_run = {"click", "markdown-it-py", "requests", "setuptools"}
    only_for_tests = {_name(requirement) for requirement in TESTS} - needed - also_run
    assert not only_for_tests & set(_locked("requirements.lock"))
    assert only_for_tests <= set(_locked("requirements-tests.lock"))


def test_a_demo_installs_tensorflow_without_the_parts_for_a_gpu() -> None:
    locked = _locked("requirements.lock")
    assert "platform_machine == 'x86_64' and sys_platform == 'linux'" in locked["tensorflow-cpu"].splitlines()[0]
    assert "platform_machine != 'x86_64' or sys_platform != 'linux'" in locked["tensorflow"].splitlines()[0]


def test_the_tests_run_with_the_versions_that_a_demo_installs() -> None:
    runs, tests = _locked("requirements.lock"), _locked("requirements-tests.lock")
    pins = {name: block.split()[0] for name, block in runs.items()}
    assert pins == {name: tests[name].split()[0] for name in runs}


def test_a_stand_in_with_other_versions_is_in_no_environment_but_its_own() -> None:
    locks = {path.name for path in ROOT.glob("requirements*.lock")}
    assert [lock for lock in sorted(locks) if "localstack-core" in _locked(lock)] == ["requirements-localstack.lock"]


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("requirements*.lock")))
def test_every_package_is_checked_against_a_hash(lock: str) -> None:
    locked = _locked(lock)
    assert locked
    assert [name for name, block in locked.items() if "--hash=sha256:" not in block] == []
