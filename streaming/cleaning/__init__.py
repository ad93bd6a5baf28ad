"""Photos that have their rows: archived, deleted, or given their copy first."""
