"""What a person touches: the `fruits` command."""
