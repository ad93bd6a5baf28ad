"""The scripts of the documents load a table as it stands, and end well each time."""

import os
import re
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import sqlglot

from batch.maintain.compaction import compact, groups_to_compact
from bootstrap.programs import use_java
from store.settings import load_settings
from tests.support.feature_rows import commit_features, feature_vectors

ROOT = Path(__file__).parents[1]
RUNS, AT_ONCE = 4, 4


def _blocks(document: str, language: str) -> list[str]:
    text = (ROOT / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


SCRIPTS = [*_blocks("README.md", "python"), *_blocks("docs/queries.md", "python")]
SHORT_SCRIPTS = sorted({script for script in SCRIPTS if "pyspark" not in script})
SPARK_SCRIPTS = [script for script in SCRIPTS if "pyspark" in script]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a home of 200 photos, compacted, below a name that URIs write otherwise."""
    return _with_home(tmp_path_factory.mktemp("a pêche"))


@pytest.fixture(scope="module")
def plain_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same below a plain name."""
    return _with_home(tmp_path_factory.mktemp("plain"))


def _with_home(folder: Path) -> Path:
    home = load_settings(home=str(folder / "fruits-data")).places()
    commit_features(home, 1, date(2026, 10, 5), feature_vectors(200, 1), files=4)
    assert list(compact(home, groups_to_compact(home, datetime.now(UTC)), lambda: None))
    return folder


def _outcomes(script: str, folder: Path) -> Counter[tuple[int, str, str]]:
    # On an idle machine, a process that may die at its end hardly ever does.
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return Counter(pool.map(lambda _: _run(script, folder), range(RUNS)))


def _run(script: str, folder: Path) -> tuple[int, str, str]:
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=os.environ, timeout=300)
    return ended.returncode, ended.stdout.strip(), "" if ended.returncode == 0 else ended.stderr


def test_a_glob_counts_rewritten_rows_twice(folder: Path) -> None:
    files = (folder / "fruits-data/features").glob("*/*.parquet")
    assert sum(pq.read_metadata(file).num_rows for file in files) == 400


@pytest.mark.processes
@pytest.mark.parametrize("script", SHORT_SCRIPTS, ids=range(len(SHORT_SCRIPTS)))
def test_a_documented_script_loads_the_rows_each_time(script: str, folder: Path, plain_folder: Path) -> None:
    place = plain_folder if "scan_delta" in script else folder
    assert _outcomes(script, place) == {(0, "200 rows", ""): RUNS}


@pytest.mark.processes
def test_a_query_that_needs_few_rows_ends_well_each_time(tmp_path: Path) -> None:
    home = load_settings(home=str(tmp_path / "fruits-data")).places()
    # Files that the query opens ahead and does not need.
    for batch in (1, 2):
        commit_features(home, batch, date(2026, 10, batch), feature_vectors(200, batch), files=4)
    arguments = ["query", "--home", "fruits-data", "--format", "csv", "SELECT label FROM features LIMIT 1"]
    script = f"import sys; sys.argv[1:] = {arguments!r}; from ops.cli.main import run; run()"
    assert _outcomes(script, tmp_path) == {(0, "label\nkiwi", ""): RUNS}


@pytest.mark.processes
@pytest.mark.parametrize("script", SPARK_SCRIPTS, ids=range(len(SPARK_SCRIPTS)))
def test_the_documented_spark_script_loads_the_rows(script: str, folder: Path) -> None:
    use_java()
    assert _run(script, folder) == (0, "200 rows", "")


def test_every_way_is_documented() -> None:
    assert len(SHORT_SCRIPTS) == 4
    assert len(SPARK_SCRIPTS) == 1


def test_the_documented_queries_are_athenas_sql() -> None:
    queries = _blocks("docs/queries.md", "sql")
    assert len(queries) == 2
    for query in queries:
        assert isinstance(sqlglot.parse_one(query, read="athena"), sqlglot.exp.Select)
