"""`python -m dfs.admin`: finds the command, loads the settings, turns errors into one line.

Exit codes: 0 done, 1 failed (one sentence on stderr), 2 wrong usage or settings, 3 refused because it would
endanger data or writes now (each reason on a line of its own), 130 broken off with Ctrl-C. `status` and `audit` add
8, not all is well, and 9, data is missing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dfs import __version__, logs, settings
from dfs.admin import audit, create_tables, nodes, purge_trash, status
from dfs.admin.nodes import REFUSED
from dfs.errors import BadRequest, DfsError, Refused, SettingsError, StartError

COMMANDS = (create_tables, nodes, status, audit, purge_trash)

INTERRUPTED = 130


def build_parser() -> argparse.ArgumentParser:
    """The command line: common options, then one subcommand each."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--config", type=Path, metavar="FILE", help="settings file of KEY=value lines")
    common.add_argument("--show-settings", action="store_true", help="print the effective settings and stop")
    parser = argparse.ArgumentParser(prog="dfs.admin", description="Operators' commands of dfs.")
    parser.add_argument("--version", action="version", version=f"dfs {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.register(commands, common)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        chosen = settings.load(settings.AdminSettings, config=arguments.config)
        if arguments.show_settings:
            print(settings.show(chosen), flush=True)
            return 0
        logs.configure("admin", chosen.log_format, chosen.log_level)
        code: int = arguments.run(chosen, arguments)
        sys.stdout.flush()
        return code
    except SettingsError as error:
        print(f"dfs.admin: {error}", file=sys.stderr)
        return 2
    except StartError as error:
        print(f"dfs.admin: {error}", file=sys.stderr)
    except Refused as error:
        reasons = error.details.get("reasons") or [error.message]
        for reason in reasons:
            print(f"dfs.admin: refused: {reason}", file=sys.stderr)
        return REFUSED
    except BadRequest as error:  # what was asked for makes no sense, wherever that is noticed
        print(f"dfs.admin: {error.message}", file=sys.stderr)
        return 2
    except DfsError as error:
        print(f"dfs.admin: {error.message}", file=sys.stderr)
    except KeyboardInterrupt:
        print("dfs.admin: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:  # who reads the output has seen enough (`| head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


if __name__ == "__main__":
    sys.exit(main())
