"""Operators' commands: `python -m dfs.admin COMMAND`. Each command is a module with `register`."""
