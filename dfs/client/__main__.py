"""`python -m dfs.client`."""

from __future__ import annotations

import sys

from dfs.client.cli import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m dfs.client"))
