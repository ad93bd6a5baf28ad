"""The tour runs from top to bottom over a demo's home, and what it shows tells nothing of the machine it ran on."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bootstrap.programs import use_java
from ops.demo.tour import TOUR, TourFailed, read_tour, run_tour

OF_A_MACHINE = (
    r"file:/",
    r"/(tmp|root|home|work|Users|usr|opt|var|private)/",
    r"[\w.]+@\w",
    r"\d{4}-\d\d-\d\d",
    r"\d\d:\d\d:\d\d",
    r"\b\d{1,3}(\.\d{1,3}){3}\b",
    rf"\b{re.escape(socket.gethostname())}\b",
)


def _code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _texts(notebook: Any) -> list[str]:
    """All that the outputs show, but for pictures."""
    found: list[str] = []
    for cell in _code_cells(notebook):
        for output in cell.outputs:
            data = output.get("data", {})
            found += [output.get("text", ""), *(text for kind, text in data.items() if not kind.startswith("image/"))]
    return found


def _kinds(notebook: Any) -> list[tuple[str, list[list[str]]]]:
    """Of each cell its id and what its outputs are: pictures, tables or text."""
    return [
        (cell.id, [sorted(output.get("data", {output.output_type: ""})) for output in cell.outputs])
        for cell in _code_cells(notebook)
    ]


def test_the_outputs_are_those_of_one_run_from_top_to_bottom() -> None:
    cells = _code_cells(read_tour())
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    # These only define what the next ones use.
    assert [cell.id for cell in cells if not cell.outputs] == ["setup", "fit"]


def test_the_outputs_tell_nothing_of_a_machine() -> None:
    tour = read_tour()
    told = [(pattern, text) for text in _texts(tour) for pattern in OF_A_MACHINE if re.search(pattern, text)]
    assert told == []
    assert [cell.id for cell in _code_cells(tour) if cell.metadata] == []
    assert tour.metadata.keys() == {"kernelspec"}


def test_the_links_lead_to_documents() -> None:
    links = re.findall(r"\]\(([^)#]+)", "".join(cell.source for cell in read_tour().cells))
    assert links
    assert [link for link in links if not (TOUR.parent / link).exists()] == []


def test_the_tour_is_small_enough_to_be_shown() -> None:
    # GitHub shows no larger one.
    assert TOUR.stat().st_size < 1_000_000


@pytest.mark.processes
def test_the_tour_runs_over_a_demo_and_shows_what_is_stored(tmp_path: Path) -> None:
    home = tmp_path / "fruits-data"
    demo = [sys.executable, "-m", "ops", "demo", "--home", str(home), "--photos", "60", "--weights", "untrained:7"]
    made = subprocess.run(demo, capture_output=True, text=True, env=os.environ, timeout=600)
    assert made.returncode == 0, made.stderr
    use_java()

    ran = run_tour(str(home))

    assert _kinds(ran) == _kinds(read_tour())
    assert f"{tmp_path}" not in "".join(_texts(ran))


@pytest.mark.processes
def test_a_home_without_photos_fails_at_the_cell_that_needs_them(tmp_path: Path) -> None:
    with pytest.raises(TourFailed, match="A cell of the tour failed"):
        run_tour(str(tmp_path / "nothing"))
