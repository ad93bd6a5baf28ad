"""The refit's work and other ways to do it, each run as a module of its own."""
