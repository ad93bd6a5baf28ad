"""The process of a command: its streams, its end, Ctrl-C, and what it says of storage that it waits for."""
