"""The Delta tables: schemas, files, commits."""
