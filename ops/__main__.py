"""Runs the `fruits` command by its package's name, or by this file's path, as spark-submit does."""

# Processes that Python spawns read this file again, and are not to run the command.
if __name__ == "__main__":
    from fruits_launcher import main

    main()
