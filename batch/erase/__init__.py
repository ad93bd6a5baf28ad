"""Forget a person, an object or a photo."""
