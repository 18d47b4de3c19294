"""`python -m dfs COMMAND`: everything dfs does, under one name."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from dfs import __version__

if sys.version_info < (3, 11):  # noqa: UP036  (from a checkout nothing else has checked it)
    sys.exit("dfs needs Python 3.11 or newer, and this is {}.{}: {}".format(*sys.version_info[:2], sys.executable))

COMMANDS = {
    "up": ("dfs.local.up", "serve files from this machine: one API server and some nodes"),
    "demo": ("dfs.local.demo", "see it work: store a file, kill a node, read the file back"),
    "api": ("dfs.api.__main__", "run an API server"),
    "node": ("dfs.node.__main__", "run a storage node, or check a data directory"),
    "client": ("dfs.client.__main__", "store and fetch files"),
    "admin": ("dfs.admin.__main__", "create tables and operate a cluster"),
}
"""Command -> (module with `main(argv)`, what it does). Imported only when asked for."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code (2 for a command that does not exist)."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    command = arguments[0] if arguments else ""
    if command in ("-h", "--help", "help"):
        print(usage())
        return 0
    if command in ("-V", "--version", "version"):
        print(f"dfs {__version__}")
        return 0
    if command not in COMMANDS:
        problem = f"there is no command {command!r}\n\n" if command else ""
        print(problem + usage(), file=sys.stderr)
        return 2
    try:
        module = importlib.import_module(COMMANDS[command][0])
        result: int = module.main(arguments[1:])
    except KeyboardInterrupt:  # too early, or too late, for the command to have said so itself
        print("dfs: interrupted", file=sys.stderr)
        return 130
    return result


def usage() -> str:
    """The text of `--help`."""
    lines = "\n".join(f"  {name:<8}{meaning}" for name, (_, meaning) in COMMANDS.items())
    return f"usage: dfs COMMAND …   (or python -m dfs COMMAND …)\n\n{lines}\n\ndfs COMMAND --help tells more."


if __name__ == "__main__":
    sys.exit(main())
