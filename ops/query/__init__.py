"""Queries over the tables, here and on Athena."""
