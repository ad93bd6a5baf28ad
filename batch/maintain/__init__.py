"""Keep the tables small and quick."""
