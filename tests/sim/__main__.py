"""`python -m tests.sim`: the tables of docs/durability.md. `--nodes`, `--chunks` and so on change the cluster."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from tests.sim.report import Size, tables


def main(argv: Sequence[str] | None = None) -> int:
    """Print the tables; returns the exit code."""
    parser = argparse.ArgumentParser(prog="tests.sim", description=__doc__)
    default = Size()
    for name in ("nodes", "zones", "chunks", "chunk_bytes", "seed", "checked_failures"):
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=getattr(default, name))
    parser.add_argument("--delay", type=float, default=default.delay, help="DFS_REPAIR_DELAY, seconds")
    for line in tables(Size(**vars(parser.parse_args(argv)))):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
