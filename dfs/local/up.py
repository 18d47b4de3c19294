"""`python -m dfs up`: the embedded cluster until Ctrl-C or SIGTERM."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dfs import logs, process
from dfs.errors import DfsError, SettingsError, StartError
from dfs.local.cluster import EmbeddedCluster, Options
from dfs.local.layout import MAX_NODES, METADATA, ClusterDirectory, Layout
from dfs.settings import ApiSettings, load

DEFAULT_NODES = 3


def _number(low: int, high: int) -> object:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {low} to {high}")
        return int(text)

    return parse


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dfs up",
        description="Serve files from this machine: one API server and some storage nodes, over SQLite. "
        "What is stored stays in the data directory and is found again by the next start.",
        allow_abbrev=False,
    )
    parser.add_argument("--data", type=Path, default=Path("dfs-data"), metavar="DIR", help="default: ./dfs-data")
    parser.add_argument("--nodes", type=_number(1, MAX_NODES), metavar="N",  # type: ignore[arg-type]
                        help=f"storage nodes; default: those that exist, at first {DEFAULT_NODES}")  # fmt: skip
    parser.add_argument("--api-port", type=_number(0, 65535), metavar="PORT",  # type: ignore[arg-type]
                        help="0: any free one; default: the last one used, at first 8080")  # fmt: skip
    parser.add_argument("--replication-factor", type=_number(1, 16), metavar="R",  # type: ignore[arg-type]
                        help="nodes that each chunk lies on; default: as before, at first 2")  # fmt: skip
    parser.add_argument("--metadata", choices=METADATA,
                        help="default: as before, at first sqlite; dynamodb: AWS, or AWS_ENDPOINT_URL")  # fmt: skip
    parser.add_argument("--strategy", choices=("sync", "quorum", "async"), help="default: REPLICATION_STRATEGY, or sync")
    parser.add_argument("--no-supervise", action="store_true", help="leave a process that dies down")
    parser.add_argument("--config", type=Path, metavar="FILE", help="KEY=value settings for all processes")
    return parser


def choose_layout(kept: Layout | None, options: argparse.Namespace, settings: ApiSettings) -> Layout:
    """What is to run: the command line, else what was kept, else `settings`. Raises StartError."""
    if kept is None:
        kept = Layout("sqlite" if options.metadata is None else options.metadata,
                      settings.replication_factor, settings.api_port, ())  # fmt: skip
    elif options.metadata not in (None, kept.metadata):
        raise StartError(
            f"--metadata {options.metadata}: the cluster in this directory keeps its metadata in {kept.metadata}; "
            "choose another --data directory"
        )
    nodes = options.nodes or len(kept.nodes) or DEFAULT_NODES
    grown = kept.with_nodes(nodes)
    factor = options.replication_factor or kept.replication_factor
    port = kept.api_port if options.api_port is None else options.api_port
    if factor > nodes:
        raise StartError(
            f"{factor} replicas need {factor} nodes, and there are {nodes}: "
            f"give --nodes {factor} or --replication-factor {nodes}"
        )
    return dataclasses.replace(grown, replication_factor=factor, api_port=port)


def _serve(options: argparse.Namespace, lifetime: process.Lifetime) -> None:
    settings = load(ApiSettings, config=options.config)
    logs.configure("up", settings.log_format, settings.log_level)
    directory = ClusterDirectory.open(options.data)
    try:
        layout = choose_layout(directory.read(), options, settings)
        if layout.api_port:
            # Before any process is started, so that the most frequent mistake is told at once.
            process.bind(settings.api_bind, layout.api_port, port_setting="--api-port",
                         bind_setting="DFS_API_BIND").close()  # fmt: skip
        cluster = EmbeddedCluster(
            directory,
            layout,
            Options(config=options.config, strategy=options.strategy, supervise=not options.no_supervise),
        )
        if cluster.layout != directory.read():  # on a full disk what is stored can still be read
            directory.write(cluster.layout)
        try:
            cluster.start()
            lifetime.ready()
            print(f"ready {cluster.url}", flush=True)
            lifetime.wait()
        finally:
            cluster.stop()
        logs.event("stopped", reason=lifetime.reason)
    finally:
        directory.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit codes: 0 stopped as asked, 1 could not start, 2 bad settings or usage."""
    options = _parser().parse_args(arguments)
    try:
        with process.Lifetime() as lifetime:
            _serve(options, lifetime)
        return 0
    except SettingsError as error:
        print(f"dfs up: {error}", file=sys.stderr)
        return 2
    except (StartError, DfsError) as error:
        print(f"dfs up: {error}", file=sys.stderr)
        return 1
    except process.Interrupted:
        return 0
    except BrokenPipeError:
        # Whoever was to read "ready" is gone. Nothing more can be said on stdout.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(f"dfs up: --data {options.data}: {place}{error.strerror or error}", file=sys.stderr)
        return 1
