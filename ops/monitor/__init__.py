"""What is told of a running stream: a panel, lines, JSON, metrics."""
