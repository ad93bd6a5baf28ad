"""A house that can be walked through: short modules, folders that are taken in at a glance, and a test for each."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("features", "store", "streaming", "batch", "bootstrap", "ops")
MOST_LINES = 400
MOST_MODULES = 18

# Modules that no test is named after and none imports: what shows that they work.
SHOWN_BY = {
    "batch/equal_photos.py": "tests/batch/test_reproject_names.py",
    "batch/erase/objects.py": "tests/batch/erase/test_erase.py",
    "batch/refeaturize/pictures.py": "tests/batch/refeaturize/test_refeaturize.py",
    "batch/refit/summing_job.py": "tests/batch/refit/test_sums.py",
    "bootstrap/aws/destroy.py": "tests/bootstrap/aws/test_deploy.py",
    "bootstrap/aws/preflight/quotas.py": "tests/bootstrap/aws/test_preflight.py",
    "bootstrap/pip.py": "tests/bootstrap/aws/test_wheelhouse.py",
    "features/environment.py": "tests/streaming/test_local_machine.py",
    "features/worker_process.py": "tests/features/test_isolation.py",
    "ops/cli/aws/destroy.py": "tests/bootstrap/aws/test_deploy.py",
    "ops/cli/aws/stage.py": "tests/bootstrap/aws/test_deploy.py",
    "ops/cli/aws/submit.py": "tests/bootstrap/aws/test_deploy.py",
    "ops/cli/command.py": "tests/ops/cli/test_main.py",
    "ops/cli/demo.py": "tests/ops/cli/test_main.py",
    "ops/cli/models.py": "tests/batch/test_reproject.py",
    "ops/cli/photos/files.py": "tests/ops/identify/test_identify.py",
    "ops/cli/photos/similar.py": "tests/ops/identify/test_identify.py",
    "ops/cli/process/descendants.py": "tests/ops/cli/test_interrupts.py",
    "ops/cli/spark_job.py": "tests/batch/test_reproject.py",
    "ops/demo/demo.py": "tests/ops/cli/test_main.py",
    "ops/demo/scenes.py": "tests/ops/demo/test_photos.py",
    "ops/identify/featurized_files.py": "tests/ops/identify/test_identify.py",
    "ops/query/cell_values.py": "tests/ops/query/test_rows.py",
    "ops/report/page.py": "tests/ops/report/test_report.py",
    "store/objects/originals.py": "tests/batch/refeaturize/test_refeaturize.py",
    "store/objects/page_cache.py": "tests/store/objects/test_landing_files.py",
    # `make java` makes one before the tests, which start Spark with it.
    "streaming/class_archive.py": "Makefile",
    "streaming/discovery/listing.py": "tests/streaming/discovery/test_discovery.py",
    "streaming/discovery/retries.py": "tests/streaming/discovery/test_retry.py",
    "streaming/executor/copying.py": "tests/streaming/cleaning/test_leftovers.py",
    "streaming/executor/probing.py": "tests/streaming/executor/test_fetching.py",
    "streaming/executor/task.py": "tests/streaming/test_stream.py",
    "streaming/pipeline.py": "tests/streaming/test_exactly_once.py",
    "streaming/source.py": "tests/streaming/test_exactly_once.py",
    "streaming/threads.py": "tests/ops/cli/test_interrupts.py",
}


def _modules(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def _imported_by_tests() -> Iterator[str]:
    for file in _modules("tests"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom):
                yield from (str(node.module), *(f"{node.module}.{alias.name}" for alias in node.names))
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)


def test_each_module_has_a_test_or_a_reason() -> None:
    names = {file.stem for file in _modules("tests")}
    imported = set(_imported_by_tests())
    without = set()
    for file in _modules(*ROOMS):
        path = file.relative_to(ROOT)
        dotted = ".".join(path.with_suffix("").parts)
        if not path.stem.startswith("__") and f"test_{path.stem}" not in names and dotted not in imported:
            without.add(str(path))
    assert without == SHOWN_BY.keys()
    assert [test for test in SHOWN_BY.values() if not (ROOT / test).exists()] == []


def test_modules_are_short() -> None:
    lines = {file.relative_to(ROOT): len(file.read_text().splitlines()) for file in _modules(*ROOMS, "benchmarks")}
    assert {str(path): count for path, count in lines.items() if count > MOST_LINES} == {}


@pytest.mark.parametrize("room", [*ROOMS, "benchmarks"])
def test_folders_hold_few_modules(room: str) -> None:
    modules = _modules(room)
    for folder in {file.parent for file in modules}:
        assert len([file for file in modules if file.parent == folder]) <= MOST_MODULES, folder
