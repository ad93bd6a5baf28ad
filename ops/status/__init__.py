"""How a home stands."""
