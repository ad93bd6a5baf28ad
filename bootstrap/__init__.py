"""What a new installation needs before it can run: the network and its weights."""
