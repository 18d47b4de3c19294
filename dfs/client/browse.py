"""The commands about files and the cluster that move no content: ls, stat, mv, rm, restore, nodes, buckets."""

from __future__ import annotations

import argparse
import datetime
from dataclasses import asdict, replace
from itertools import chain

from dfs.client.exits import Exit
from dfs.client.failures import UsageError
from dfs.client.names import last_part, stored_path, stored_prefix, wanted
from dfs.client.results import Prefix, StoredFile
from dfs.client.transfer import Context, below, each, with_operation
from dfs.errors import Gone, NotFound, Unknown
from dfs.model import new_file_id
from dfs.notation import format_size


def ls(context: Context, arguments: argparse.Namespace) -> Exit:
    """[PREFIX] [-l] [-r]: as a directory lists, up to the next `/`, or with -r all; --deleted: the trash."""
    delimiter = None if arguments.recursive else "/"
    prefix = "" if arguments.prefix == "/" else arguments.prefix.removeprefix("path:")
    if arguments.deleted:
        return _ls_deleted(context, prefix)
    for entry in context.client.list(prefix, delimiter=delimiter):
        if isinstance(entry, Prefix):
            context.console.result({"type": "prefix", "prefix": entry.prefix}, _listed(entry, arguments.long))
        else:
            context.console.result({"type": "file"} | asdict(entry), _listed(entry, arguments.long))
    return Exit.DONE


_DELETED = "{:20}  {:20}  {:8}  {:>14}  {:36}  {}"


def _ls_deleted(context: Context, prefix: str) -> Exit:
    """The trash: all paths that begin with `prefix`, with what tells two files of one path apart."""
    for number, entry in enumerate(context.client.list_deleted(prefix)):
        if number == 0:
            context.console.header(_DELETED.format("DELETED", "KEPT UNTIL", "WHY", "SIZE", "FILE ID", "PATH"))
        line = _DELETED.format(
            format_time(entry.deleted_at),
            format_time(entry.expires_at),
            entry.retired or "-",
            entry.size,
            entry.file_id,
            entry.path,
        )
        context.console.result({"type": "deleted"} | asdict(entry), line)
    return Exit.DONE


def _listed(entry: StoredFile | Prefix, long: bool) -> str:
    if isinstance(entry, Prefix):
        return f"{'-':>14}  {'':20}  {'':36}  {entry.prefix}" if long else entry.prefix
    if not long:
        return entry.path or ""
    return f"{entry.size:>14}  {format_time(entry.modified):20}  {entry.file_id:36}  {entry.path}"


def format_time(milliseconds: int | None) -> str:
    """`2025-01-31T12:00:00Z`, `-` when not known."""
    if milliseconds is None:
        return "-"
    try:
        moment = datetime.datetime.fromtimestamp(milliseconds / 1000, tz=datetime.UTC)
    except (ValueError, OverflowError, OSError):
        return "-"
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def stat(context: Context, arguments: argparse.Namespace) -> Exit:
    """What is known of each file."""
    targets = [wanted(text) for text in arguments.targets]
    if len(targets) == 1:
        _stat_one(context, targets[0].path, targets[0].file_id)
        return Exit.DONE
    return each(
        context, [(each.name, each) for each in targets], lambda one: _stat_one(context, one.path, one.file_id)
    )


def _stat_one(context: Context, path: str | None, file_id: str | None) -> None:
    found = context.client.stat(path, file_id=file_id)
    try:
        more = context.client.upload_status(found.file_id)
    except (NotFound, Gone):  # replaced just now: what was found first is still an answer
        pass
    else:
        found = replace(
            found,
            bucket=more.bucket or found.bucket,
            path=found.path or more.path,
            chunk_size=more.chunk_size,
            chunks=more.chunks,
        )
    rows = (
        ("path", found.path or "-"),
        ("bucket", found.bucket),
        ("file id", found.file_id),
        ("size", f"{found.size} ({format_size(found.size)})"),
        ("modified", format_time(found.modified)),
        ("content type", found.content_type or "-"),
        ("SHA-256", found.sha256 or "- (stored in chunks)"),
        ("chunks", "-" if found.chunks is None else f"{found.chunks} of {found.chunk_size} bytes"),
    )
    context.console.result(asdict(found), "\n".join(f"{name + ':':14}{value}" for name, value in rows))


def mv(context: Context, arguments: argparse.Namespace) -> Exit:
    """Rename; NEW ending in `/` keeps the last part of the name."""
    source = stored_path(arguments.source)
    path = _destination(source, arguments.destination)
    op_id = arguments.op_id or new_file_id()
    try:
        moved = context.client.move(
            source, path, overwrite=arguments.overwrite, if_match=arguments.if_match, op_id=op_id
        )
    except Unknown as error:
        raise with_operation(error, op_id) from error
    context.console.done({"source": source} | asdict(moved), f"{source} -> {path}")
    return Exit.DONE


def _destination(source: str, new: str) -> str:
    return stored_prefix(new) + last_part(source) if new.endswith("/") else stored_path(new)


def rm(context: Context, arguments: argparse.Namespace) -> Exit:
    """Delete the paths, or all paths below them."""
    if arguments.id and (not arguments.purge or arguments.if_match):
        raise UsageError("--id names a file in the trash: it goes with --purge and without --if-match")
    if arguments.recursive:
        if arguments.if_match or arguments.op_id or arguments.id:
            raise UsageError("--if-match, --id and --op-id go with one PATH")
        prefixes = [stored_prefix(text) for text in arguments.paths]
        paths_below = chain.from_iterable(below(context, prefix) for prefix in prefixes)
        return each(context, paths_below, lambda path: _rm_one(context, arguments, path))
    if len(arguments.paths) == 1:
        _rm_one(context, arguments, stored_path(arguments.paths[0]))
        return Exit.DONE
    if arguments.if_match or arguments.op_id or arguments.id:
        raise UsageError("--if-match, --id and --op-id go with one PATH")
    paths = [stored_path(text) for text in arguments.paths]
    return each(context, [(path, path) for path in paths], lambda path: _rm_one(context, arguments, path))


def _rm_one(context: Context, arguments: argparse.Namespace, path: str) -> None:
    op_id = arguments.op_id or new_file_id()
    try:
        context.client.delete(
            path, purge=arguments.purge, file_id=arguments.id, if_match=arguments.if_match, op_id=op_id
        )
    except Unknown as error:
        raise with_operation(error, op_id) from error
    context.console.done({"path": path, "deleted": True, "purged": arguments.purge}, f"deleted {path}")


def restore(context: Context, arguments: argparse.Namespace) -> Exit:
    """Bring a file back from the trash; NEW ending in `/` keeps the last part of the name."""
    path = stored_path(arguments.path)
    to = None if arguments.to is None else _destination(path, arguments.to)
    op_id = arguments.op_id or new_file_id()
    try:
        restored = context.client.restore(path, file_id=arguments.id, to=to, op_id=op_id)
    except Unknown as error:
        raise with_operation(error, op_id) from error
    context.console.done({"source": path} | asdict(restored), f"restored {restored.path}  {restored.file_id}")
    return Exit.DONE


def nodes(context: Context, _: argparse.Namespace) -> Exit:
    """The storage nodes, one a line."""
    rows = [("NODE", "STATE", "ALIVE", "ADDRESS", "ZONE", "FREE", "USED", "CHUNKS", "SEEN")]
    found = context.client.nodes()
    for node in found:
        rows.append(
            (
                node.node_id,
                node.state or "-",
                "yes" if node.alive else "no",
                f"{node.address or '-'}:{node.port if node.port is not None else '-'}",
                node.zone or "-",
                "-" if node.free_bytes is None else format_size(node.free_bytes),
                "-" if node.used_bytes is None else format_size(node.used_bytes),
                "-" if node.chunks is None else str(node.chunks),
                format_time(node.last_seen),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    context.console.header(lines[0])
    for node, line in zip(found, lines[1:], strict=True):
        context.console.result(asdict(node), line)
    return Exit.DONE


def buckets(context: Context, _: argparse.Namespace) -> Exit:
    """The buckets, one a line."""
    for bucket in context.client.buckets():
        context.console.result(asdict(bucket), bucket.name)
    return Exit.DONE


def mkbucket(context: Context, arguments: argparse.Namespace) -> Exit:
    """Make a bucket; one that exists is fine."""
    context.client.create_bucket(arguments.bucket_name)
    context.console.done({"name": arguments.bucket_name}, f"bucket {arguments.bucket_name}")
    return Exit.DONE
