"""Runs the `fruits` command by its package's name, or by this file's path, as spark-submit does."""

import sys
from pathlib import Path

# Processes that Python spawns read this file again, and are not to run the command.
if __name__ == "__main__":
    # Run by its path, Python would look among this package's modules first for those that everyone imports. It has
    # followed links to get there.
    sys.path[:] = [entry for entry in sys.path if entry != str(Path(__file__).resolve().parent)]
    from ops.cli import run

    run()
