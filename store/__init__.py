"""What a home holds: its objects, its tables, its state, its models."""
