"""`python -m dfs.node`: run a storage node, or check a data directory."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dfs import process
from dfs.settings import NodeSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit code: see `dfs.process` (serving) and `dfs.node.checkup` (check)."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments[:1] == ["check"]:
        from dfs.node import checkup  # a check loads no server

        return checkup.main(arguments[1:])

    from dfs.node.server import serve

    return process.run(
        "dfs-node",
        NodeSettings,
        serve,
        arguments,
        description="Run a storage node: one process, one data directory. "
        "`dfs-node check DATA_DIR` verifies the directory of a node that is not running.",
    )


if __name__ == "__main__":
    sys.exit(main())
