"""Where the `fruits` command begins: little is imported before Ctrl-C is listened to."""

from ops.interrupts import run_interruptibly


def main() -> None:
    """Run the command line."""
    run_interruptibly(_run)


def _run() -> None:
    from ops.cli import main

    main()
