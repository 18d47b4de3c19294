"""A storage node: one process, one data directory, one row in the registry."""
