"""The process of a command: its streams, its end, Ctrl-C, and messages about waits for storage."""
