"""The README's table of settings, from `dfs/settings.py`: `python -m tests.support.settings_table` prints it."""

from __future__ import annotations

import dataclasses
from typing import Any

from dfs.settings import ROLES

BOTH = {"api", "node"}


def _default(value: Any, parser: str) -> str:
    if value is None:
        return ""
    if parser.startswith("sizes"):
        for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
            if value >= size and value % size == 0:
                return f"`{value // size}{unit}`"
    if parser.startswith("times"):
        for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60)):
            if value > seconds and value % seconds == 0:
                return f"`{value / seconds:g}{unit}`"
        return f"`{value:g}`"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    return f"`{value}`"


def table() -> str:
    """One row a setting, in the order of `dfs/settings.py`."""
    readers: dict[str, set[str]] = {}
    rows: dict[str, tuple[str, str]] = {}
    for role in ROLES:
        for field in dataclasses.fields(role):
            env = field.metadata["env"]
            readers.setdefault(env, set()).add(role.role)
            rows[env] = (_default(field.default, field.metadata["parse"].__qualname__), field.metadata["help"])
    lines = ["| Variable | Default | Read by | Meaning |", "| --- | --- | --- | --- |"]
    for env, (default, meaning) in rows.items():
        who = "all" if {"api", "node"} <= readers[env] and "admin" in readers[env] else ", ".join(sorted(readers[env]))
        lines.append(f"| `{env}` | {default} | {who} | {meaning} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
