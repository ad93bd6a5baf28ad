"""What the served model says of photos that need not be in the home."""
