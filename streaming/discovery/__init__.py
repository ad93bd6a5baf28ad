"""What landed and was never planned: by listing, from a queue, by request."""
