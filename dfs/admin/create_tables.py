"""`create-tables`: make what metadata needs, once, wherever `DFS_METADATA_URL` points."""

from __future__ import annotations

import argparse
from typing import Any

from dfs.metadata import open_metadata
from dfs.settings import CommonSettings


def register(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the subcommand to argparse's `commands`."""
    parser = commands.add_parser(
        "create-tables",
        parents=[common],
        help="make the metadata tables and the cluster's identity where they are missing",
        description="Make the metadata tables and the cluster's identity where they are missing, and wait until "
        "they can be used. Harmless to repeat; existing tables are checked, never replaced.",
    )
    parser.add_argument(
        "--no-protect",
        action="store_true",
        help="do not set deletion protection on the DynamoDB tables (for tests and trials)",
    )
    parser.set_defaults(run=run)


def run(settings: CommonSettings, arguments: argparse.Namespace) -> int:
    """Make the tables, say which cluster they hold."""
    store = open_metadata(settings)
    try:
        cluster = store.create(protect=not arguments.no_protect)
    finally:
        store.close()
    where = settings.metadata_url
    if where == "dynamodb://":
        names = (settings.chunk_metadata_table, settings.node_registry_table, settings.paths_table)
        where = f"DynamoDB tables {', '.join(names)} in {settings.aws_region}"
    print(f"ready: cluster {cluster.cluster_id} in {where}")
    return 0
