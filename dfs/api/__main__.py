"""`python -m dfs.api`: one API server."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from dfs import process
from dfs.api.workers import forks, serve
from dfs.settings import ApiSettings


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code."""
    return process.run(
        "dfs-api",
        ApiSettings,
        serve,
        argv,
        description="An API server of dfs: files and the seed protocol over HTTP.",
        forks=forks,
    )


if __name__ == "__main__":
    sys.exit(main())
