"""Starts the `fruits` command, whatever modules its user has in the working directory or on PYTHONPATH.

Our folders' names are common ones, so the command begins in a module whose name is not. It imports nothing that could
be somebody else's before it has put the user's own folders last.
"""

# pathlib imports many others.
# ruff: noqa: PTH100, PTH109, PTH120
import os
import sys


def main() -> None:
    """Run the command line; Ctrl-C while it starts is one line and exit code 130."""
    try:
        _find_own_modules_first()
        from ops.cli.process.interrupts import run_interruptibly

        run_interruptibly(_run)
    except KeyboardInterrupt:
        print("fruits: interrupted.", file=sys.stderr)
        sys.exit(130)


def _run() -> None:
    from ops.cli.main import run

    run()


def _find_own_modules_first() -> None:
    # The script's own folder or the working directory, unless Python was told to leave it out.
    if not sys.flags.safe_path:
        del sys.path[0]
    # Under spark-submit PYTHONPATH is the cluster's and names the Spark to use.
    given = None if "PYSPARK_GATEWAY_PORT" in os.environ else os.environ.get("PYTHONPATH")
    try:
        users = [os.path.abspath(entry) for entry in given.split(os.pathsep)] if given else []
        os.getcwd()
    except FileNotFoundError:
        sys.exit("fruits: The working directory was removed; change to one that exists and run the command again.")
    project = os.path.dirname(os.path.abspath(__file__))
    installed = [entry for entry in sys.path if entry not in users]
    first = [] if project in installed else [project]
    sys.path[:] = [*first, *installed, *(entry for entry in sys.path if entry in users and entry not in first)]


if __name__ == "__main__":
    main()
