"""The commands that are asked about photos as files."""
