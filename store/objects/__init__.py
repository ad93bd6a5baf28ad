"""Places in storage, the objects there, and their faults."""
