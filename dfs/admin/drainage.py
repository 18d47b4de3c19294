"""Following a drain: a line that says how far it is, until the node is empty."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TextIO

from dfs.admin.layout import Glyphs
from dfs.admin.screen import tour_text
from dfs.admin.server import Server
from dfs.admin.status import glyphs_of
from dfs.client.failures import LocalFailure
from dfs.client.progress import terminal_width
from dfs.errors import Unavailable

EVERY = 2.0
"""Seconds between looks."""

_MOST_FAILURES = 30
_QUIET_LOOKS = 15
_DOUBT_LOOKS = 3
"""A server may not have read the registry since the drain was ordered through another one."""
_EMPTY = ("drained", "decommissioned")


def follow(server: Server, node_id: str, out: TextIO, *, pause: Callable[[float], None]) -> int:
    """Say on `out` how far the drain of `node_id` is until it is drained: then 0.

    On a terminal the line is redrawn, elsewhere a new one is written when something has changed, at most every
    30 seconds. Servers that do not answer are asked again for a minute. Raises LocalFailure when somebody
    ended the drain, Unavailable when the servers stay away. Stopping to follow does not end the drain.
    """
    terminal, glyphs = out.isatty(), glyphs_of(out)
    said, looks, failures, others = "", 0, 0, 0
    try:
        while True:
            try:
                status = server.call("GET", "/status")
                failures = 0
            except Unavailable:
                failures += 1
                if failures >= _MOST_FAILURES:
                    raise
                pause(EVERY)
                continue
            state, line = progress_of(status, node_id, terminal_width(out) - 1, glyphs)
            if state in _EMPTY:
                line = f"{node_id} is {state}: it holds nothing any more"
            if line != said and (terminal or looks % _QUIET_LOOKS == 0 or state in _EMPTY):
                out.write(f"\r\x1b[K{line}" if terminal else f"{line}\n")
                out.flush()
                said = line
            if state in _EMPTY:
                return 0
            others = 0 if state == "draining" else others + 1
            if others >= _DOUBT_LOOKS:
                raise LocalFailure(f"{node_id} is {state}: somebody ended the drain")
            looks += 1
            pause(EVERY)
    except KeyboardInterrupt:
        out.write(f"\nthe drain of {node_id} goes on; end it with: python -m dfs.admin activate {node_id}\n")
        raise
    finally:
        if terminal and said:
            out.write("\n")


def progress_of(status: dict[str, Any], node_id: str, width: int, glyphs: Glyphs) -> tuple[str, str]:
    """The node's administrative state, and a line about its tour."""
    node = next((each for each in status["nodes"] if each["node_id"] == node_id), None)
    if node is None:
        return "not registered", ""
    tours = status["repair"]["tours"] if status["repair"] else []
    tour = next((each for each in tours if each["kind"] == "drain" and each["node_id"] == node_id), None)
    line = f"drain {node_id}: waiting for repair to begin" if tour is None else tour_text(tour, width, glyphs)
    return str(node["admin_state"]), line
