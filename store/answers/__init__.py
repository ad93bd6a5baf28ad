"""The answers that an app reads: one small JSON object for each photo or reject."""
