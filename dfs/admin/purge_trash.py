"""`purge-trash`: delete for good what is in the trash."""

from __future__ import annotations

import argparse
import sys
from typing import Any
from urllib.parse import urlencode

from dfs.admin.server import Server, add_api_option, connect
from dfs.client.results import need
from dfs.model import check_bucket
from dfs.notation import format_size, parse_time
from dfs.settings import AdminSettings

USAGE = 2


def register(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand to argparse's `commands`."""
    parser = commands.add_parser(
        "purge-trash",
        parents=[common],
        help="delete for good what is in the trash",
        description="Delete for good what is in the trash: nothing of it can be restored afterwards. Shows how much it "
        "is and asks first. What is being restored meanwhile stays. Harmless to break off and to repeat.",
    )
    add_api_option(parser)
    parser.add_argument("--bucket", metavar="NAME", help="only of this bucket (default: of all)")
    parser.add_argument("--older-than", type=_time, metavar="TIME", help="only what came there longer ago, such as 1d")
    parser.add_argument("--plan", action="store_true", help="only say what would go")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(run=run)


def _time(text: str) -> str:
    try:
        parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be {error}") from None
    return text


def run(settings: AdminSettings, arguments: argparse.Namespace) -> int:
    """Say what would go; unless that is all, ask, and do it."""
    if arguments.bucket is not None:
        check_bucket(arguments.bucket)
    order = {"bucket": arguments.bucket, "older_than": arguments.older_than}
    chosen = {name: value for name, value in order.items() if value is not None}
    with connect(settings, arguments) as server:
        files, size = _all_steps(server, chosen | {"plan": "1"})
        age = f" for longer than {arguments.older_than}" if arguments.older_than else ""
        where = f" of bucket {arguments.bucket}" if arguments.bucket else ""
        print(f"in the trash{where}{age}: {_amount(files, size)}")
        if arguments.plan or not files:
            return 0
        if not arguments.yes:
            if not sys.stdin.isatty():
                print("dfs.admin: nothing was deleted: add --yes to delete it without being asked", file=sys.stderr)
                return USAGE
            if input("Delete it for good? [y/N] ").strip().lower() not in ("y", "yes"):
                print("nothing was deleted")
                return 0
        files, size = _all_steps(server, chosen)
    print(f"deleted for good: {_amount(files, size)}; the space returns when DFS_DELETE_GRACE is over and nodes have compacted")
    return 0


def _all_steps(server: Server, order: dict[str, str]) -> tuple[int, int]:
    """The number of files and their bytes, once the server has no step left."""
    files = size = 0
    cursor: str | None = None
    while True:
        query = urlencode(order if cursor is None else order | {"cursor": cursor})
        done = server.call("POST", "/admin/trash/purge" + (f"?{query}" if query else ""))
        files += need(done, "files", int)
        size += need(done, "bytes", int)
        cursor = done.get("cursor")
        if cursor is None:
            return files, size


def _amount(files: int, size: int) -> str:
    return f"{files:,} file{'' if files == 1 else 's'}, {format_size(size)} (of one copy each)"
