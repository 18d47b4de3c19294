"""`status`: the cluster on one screen, once or again and again.

Exit codes: 0 fine (proved healthy, and nothing needs hands), 8 not that, 9 data is missing, 1 no server
answered. With --watch it runs until Ctrl-C, which is its proper end: 0.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any, TextIO

from dfs.admin import layout
from dfs.admin.screen import render
from dfs.admin.server import Server, add_api_option, connect
from dfs.client.failures import LocalFailure
from dfs.errors import DfsError
from dfs.notation import parse_time
from dfs.settings import AdminSettings

DEGRADED = 8
DATA_MISSING = 9

_WIDTH, _HEIGHT = 100, 24
_LEAST_WIDTH, _MOST_WIDTH, _LEAST_HEIGHT = 40, 140, 16
_CLEAR = "\x1b[H\x1b[J"
_EVERY = 2.0


def register(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand to argparse's `commands`."""
    parser = commands.add_parser(
        "status",
        parents=[common],
        help="nodes, space, health, repair and the last audit on one screen",
        description="The state of the cluster. Exit code: 0 fine, 8 something needs attention, 9 data is missing, "
        "1 no API server answered.",
    )
    add_api_option(parser)
    parser.add_argument("--json", action="store_true", help="the server's answer as it is")
    parser.add_argument(
        "--watch",
        nargs="?",
        const=_EVERY,
        type=_seconds,
        metavar="SECONDS",
        help="show it again and again until Ctrl-C (default: every 2 seconds)",
    )
    parser.set_defaults(run=run)


def run(settings: AdminSettings, arguments: argparse.Namespace) -> int:
    """Show it; returns the exit code."""
    with connect(settings, arguments) as server:
        if arguments.watch is None:
            return show(server, sys.stdout, as_json=arguments.json)
        return watch(server, sys.stdout, arguments.watch, as_json=arguments.json, pause=time.sleep)


def show(server: Server, out: TextIO, *, as_json: bool) -> int:
    """One status on `out`; returns the exit code."""
    status = server.call("GET", "/status")
    print(json.dumps(status) if as_json else "\n".join(drawn(status, out)), file=out, flush=True)
    return exit_code(status)


def watch(server: Server, out: TextIO, every: float, *, as_json: bool, pause: Callable[[float], None]) -> int:
    """One status after the other, `every` so many seconds, until Ctrl-C. A server that does not answer is said
    so and asked again."""
    clear = _CLEAR if out.isatty() and not as_json else ""
    try:
        while True:
            try:
                status = server.call("GET", "/status")
                shown = json.dumps(status) if as_json else "\n".join(drawn(status, out))
            except DfsError as error:
                failure = f"{time.strftime('%H:%M:%S', time.gmtime())} UTC: {error.message}"
                shown = json.dumps({"error": error.message}) if as_json else failure
            print(f"{clear}{shown}", file=out, flush=True)
            pause(every)
            if not clear and not as_json:
                print(file=out)
    except KeyboardInterrupt:
        return 0


def drawn(status: dict[str, Any], out: TextIO) -> list[str]:
    """The screen's lines as `out` can show them: in its size and colours when it is a terminal.

    Raises LocalFailure for an answer that lacks something, as one of another release may."""
    width, height, colour = _WIDTH, _HEIGHT, False
    if out.isatty():
        try:
            size = os.get_terminal_size(out.fileno())
            width, height = size.columns or _WIDTH, size.lines or _HEIGHT
        except OSError:  # a terminal that does not say
            pass
        width = max(_LEAST_WIDTH, min(_MOST_WIDTH, width))
        height = max(_LEAST_HEIGHT, height - 1)  # the prompt comes below
        colour = True
    try:
        lines = render(status, width=width, height=height, glyphs=glyphs_of(out))
    except (KeyError, TypeError) as error:
        raise LocalFailure(
            f"the server's answer cannot be shown ({error!r}): is it of another release? --json shows it as it is"
        ) from error
    return [layout.paint(line, width, colour=colour) for line in lines]


def glyphs_of(out: TextIO) -> layout.Glyphs:
    """Those that the encoding of `out` has."""
    try:
        "".join((layout.RICH.full, layout.RICH.empty, layout.RICH.dot, layout.RICH.more)).encode(out.encoding or "ascii")
    except UnicodeEncodeError:
        return layout.PLAIN
    return layout.RICH


def exit_code(status: dict[str, Any]) -> int:
    """0, 8 or 9, as the module's text says."""
    if status["health"]["state"] == "data_missing":
        return DATA_MISSING
    fine = status["health"]["state"] == "healthy" and not any(each["hands"] for each in status["warnings"])
    return 0 if fine else DEGRADED


def _seconds(text: str) -> float:
    try:
        seconds = parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"it must be {error}") from None
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError("it must be a time from 0.1 to 3600 seconds")
    return seconds
