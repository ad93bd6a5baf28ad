"""The notebook `docs/tour.ipynb`: runs it over a home, and keeps what its cells gave."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from features.environment import python_environment
from features.errors import FruitsError

TOUR = Path(__file__).parents[2] / "docs" / "tour.ipynb"
_CELL_S = 600


class TourFailed(FruitsError):
    """A cell of the tour raised an error."""


def read_tour() -> Any:
    """The notebook as it is stored."""
    return nbformat.read(TOUR, as_version=4)


def run_tour(home: str) -> Any:
    """The notebook with what its cells gave, from top to bottom in a kernel of this Python, over a demo's home.

    The tour puts a label right and fits a version, so the home changes; it takes the label back at its end. What a cell
    says on standard error is left out: Spark names the machine there. Raises TourFailed.
    """
    notebook = read_tour()
    with tempfile.TemporaryDirectory() as folder:
        # Nothing that a user has set for other notebooks changes this one.
        own = {"IPYTHONDIR": folder, "MPLCONFIGDIR": folder, "FRUITS_HOME": home}
        client = NotebookClient(
            notebook,
            timeout=_CELL_S,
            kernel_name="python3",
            record_timing=False,
            resources={"metadata": {"path": str(TOUR.parent)}},
        )
        try:
            client.execute(env={**python_environment(), **own})
        except CellExecutionError as error:
            raise TourFailed(f"A cell of the tour failed: {error}") from error
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.metadata.clear()
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    # The kernel's version would change the file with each release of Python.
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> None:
    parser = argparse.ArgumentParser(description="Run docs/tour.ipynb over a home, and keep the outputs in it.")
    parser.add_argument("home", help="a home that `fruits demo` made, and nothing else uses")
    try:
        notebook = run_tour(str(Path(parser.parse_args().home).resolve()))
    except FruitsError as error:
        raise SystemExit(f"fruits: {error}") from error
    nbformat.write(notebook, TOUR)
    print(TOUR)


if __name__ == "__main__":
    main()
