"""The `fruits` command, one module a command."""
