"""`python -m dfs.node check DATA_DIR`: verify the data directory of a node that is not running.

Exit codes: 0 nothing is wrong, 1 problems were found (or the directory could not be verified), 2 bad
usage: no such directory, or not a data directory. Only reads.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dfs.errors import StartError
from dfs.store.check import CheckReport, check_directory
from dfs.store.identity import IDENTITY_FILE


def main(argv: Sequence[str]) -> int:
    """Check one directory and print what was found; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="dfs-node check",
        description="Verify every byte of a data directory whose node is not running. Nothing is changed.",
        allow_abbrev=False,
    )
    parser.add_argument("data_dir", type=Path, metavar="DATA_DIR")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    options = parser.parse_args(argv)
    if not options.data_dir.is_dir():
        parser.error(f"{options.data_dir} is not a directory")
    try:
        report = check_directory(options.data_dir)
    except (StartError, OSError) as error:
        print(f"dfs-node check: {error}", file=sys.stderr)
        return 1
    if report.volumes == 0 and not (options.data_dir / IDENTITY_FILE).exists():
        parser.error(f"{options.data_dir} has neither {IDENTITY_FILE} nor volumes: it is not a data directory")
    print(json.dumps(as_json(report), indent=2) if options.json else "\n".join(report.lines()))
    return 0 if report.ok else 1


def as_json(report: CheckReport) -> dict[str, Any]:
    """The report's fields, and `ok`."""
    return {"ok": report.ok} | dataclasses.asdict(report) | {"directory": str(report.directory)}
