"""The rooms of the house: who may import whom."""

import ast
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"features", "store", "streaming", "batch", "bootstrap", "ops", "tests", "benchmarks"}
MAY_IMPORT = {
    "features": {"features"},
    "store": {"store", "features"},
    "streaming": {"streaming", "store", "features"},
    "batch": {"batch", "store", "features"},
    "bootstrap": {"bootstrap", "store", "features"},
    "ops": {"ops", "bootstrap", "batch", "streaming", "store", "features"},
}
ONLY_IN = {
    "pyspark": {"streaming", "batch"},
    "tensorflow": {"bootstrap/weights/network.py"},
    "keras": {f"bootstrap/weights/{name}.py" for name in ("network", "network_file", "weights", "weights_file")},
    "boto3": {"store/aws.py"},
}


@cache
def _imports(path: Path) -> frozenset[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(str(node.module).split(".")[0])
    return frozenset(names)


def _files(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", sorted(room for room in MAY_IMPORT if (ROOT / room).exists()))
def test_a_room_imports_only_what_it_may(room: str) -> None:
    files = _files(room)
    assert files
    wrong = {(str(file.relative_to(ROOT)), name) for file in files for name in _imports(file)}
    assert {(file, name) for file, name in wrong if name in OURS and name not in MAY_IMPORT[room]} == set()


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_a_library_is_imported_only_where_it_belongs(library: str) -> None:
    users = {file.relative_to(ROOT) for room in MAY_IMPORT for file in _files(room) if library in _imports(file)}
    assert users
    strangers = {user for user in users if not {str(user), user.parts[0]} & ONLY_IN[library]}
    assert strangers == set()


def test_importing_the_executor_task_loads_neither_tensorflow_nor_boto3() -> None:
    code = "import streaming.executor.task, sys; print(sorted({'tensorflow', 'keras', 'boto3'} & set(sys.modules)))"
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert answer.stdout.strip() == "[]"
