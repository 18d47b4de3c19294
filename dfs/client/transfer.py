"""The commands that move content: put, get, cat, upload, download."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from dfs.client.client import Client
from dfs.client.console import Console
from dfs.client.exits import Exit, exit_code, joint_exit
from dfs.client.failures import LocalFailure, Unreachable, UsageError, printable
from dfs.client.names import (
    LocalTree,
    Wanted,
    folds_names,
    last_part,
    output_file,
    stored_path,
    stored_prefix,
    walk,
    wanted,
)
from dfs.client.results import Prefix, StoredFile
from dfs.client.source import Progress
from dfs.errors import DfsError, NotFound, Unknown
from dfs.model import check_path, new_file_id
from dfs.notation import format_size

T = TypeVar("T")

_NAMED = "names of several files need a DIR/ at the end, with the slash"


@dataclass(frozen=True, slots=True)
class Context:
    """What a command works with. `state_dir` is where `put --resume` remembers."""

    client: Client
    console: Console
    state_dir: Callable[[], Path]


def each(context: Context, items: Iterable[tuple[str, T] | DfsError], work: Callable[[T], None]) -> Exit:
    """`work` on every item (with its name), failures reported as they come.

    An item may be an error already. Servers that cannot be reached end it: so would all others.
    """
    codes: list[Exit] = []
    count = 0
    iterator = iter(items)
    while True:
        name = None
        listing = True
        try:
            item = next(iterator, None)
            if item is None:
                return joint_exit(codes, count)
            listing = False
            if isinstance(item, DfsError):
                raise item
            name, value = item
            work(value)
        except DfsError as error:
            context.console.failure(error, name)
            codes.append(exit_code(error))
            if listing or isinstance(error, Unreachable):
                context.console.complain("stopped here; the rest was not tried")
                return joint_exit(codes, count + 1)
        count += 1


def put(context: Context, arguments: argparse.Namespace) -> Exit:
    """FILE [PATH], FILE… DIR/, or -r DIR [PREFIX/]."""
    names: list[str] = arguments.names
    if arguments.no_clobber and arguments.if_none_match:
        raise UsageError("--no-clobber and --if-none-match exclude each other")
    if arguments.recursive:
        return _put_tree(context, arguments, names)
    if len(names) <= 2 and not (len(names) == 2 and names[1].endswith("/")):
        if names[0] == "-" and len(names) == 1:
            raise UsageError("put - needs a PATH: stdin has no name")
        path = stored_path(names[1] if len(names) == 2 else last_part(os.path.abspath(names[0])))
        _put_one(context, arguments, names[0], path)
        return Exit.DONE
    if not names[-1].endswith("/"):
        raise UsageError(_NAMED)
    if len(names) > 2 and (arguments.op_id or arguments.sha256 or arguments.if_match):
        raise UsageError("--op-id, --sha256 and --if-match go with one FILE")
    prefix = stored_prefix(names[-1])
    if "-" in names[:-1]:
        raise UsageError("put - needs a PATH: stdin has no name")
    files = [(name, (name, prefix + last_part(os.path.abspath(name)))) for name in names[:-1]]
    if len(files) == 1:
        _put_one(context, arguments, *files[0][1])
        return Exit.DONE
    return each(context, files, lambda pair: _put_one(context, arguments, *pair))


def _put_tree(context: Context, arguments: argparse.Namespace, names: list[str]) -> Exit:
    if len(names) > 2:
        raise UsageError("put -r takes one DIR and a PREFIX/")
    if arguments.op_id or arguments.sha256 or arguments.if_match:
        raise UsageError("--op-id, --sha256 and --if-match go with one FILE")
    directory = Path(names[0])
    if not directory.is_dir():
        raise LocalFailure(f"{printable(names[0])} is not a directory: put -r stores directories")
    prefix = stored_prefix(names[1] if len(names) == 2 else directory.resolve().name)

    def files() -> Iterator[tuple[str, tuple[str, str]] | DfsError]:
        for found in walk(directory):
            yield found if isinstance(found, DfsError) else (str(found[0]), (str(found[0]), prefix + found[1]))

    return each(context, files(), lambda pair: _put_one(context, arguments, *pair))


def _put_one(context: Context, arguments: argparse.Namespace, name: str, path: str) -> None:
    check_path(path)
    if name != "-" and os.path.isdir(name):
        raise LocalFailure(f"{printable(name)} is a directory: put -r stores directories")
    if_none_match = "*" if arguments.no_clobber else arguments.if_none_match
    with context.console.progress(name) as progress:
        if arguments.resume:
            stored = _resume(context, arguments, name, path, if_none_match, progress)
        else:
            op_id = arguments.op_id or new_file_id()
            try:
                stored = context.client.put(
                    context.console.binary_in if name == "-" else name,
                    path,
                    content_type=arguments.content_type,
                    chunk_size=arguments.chunk_size,
                    if_match=arguments.if_match,
                    if_none_match=if_none_match,
                    sha256=arguments.sha256,
                    op_id=op_id,
                    jobs=arguments.jobs or 1,
                    progress=progress,
                )
            except Unknown as error:
                raise with_operation(error, op_id) from error
    told = f"{path}  {format_size(stored.size)}  {stored.file_id}"
    context.console.done({"source": name} | asdict(stored), told)


def _resume(
    context: Context,
    arguments: argparse.Namespace,
    name: str,
    path: str,
    if_none_match: str | None,
    progress: Progress,
) -> StoredFile:
    if name == "-" or arguments.op_id or arguments.sha256:
        raise UsageError("--resume needs a file, and goes without --op-id and --sha256")
    return context.client.put_resumable(
        name,
        path,
        state_dir=context.state_dir(),
        content_type=arguments.content_type,
        chunk_size=arguments.chunk_size,
        if_match=arguments.if_match,
        if_none_match=if_none_match,
        progress=progress,
    )


def with_operation(error: Unknown, op_id: str) -> Unknown:
    """`error` with the id under which repeating is safe."""
    return Unknown(f"{error.message}; --op-id {op_id} repeats it without doing it twice")


def get(context: Context, arguments: argparse.Namespace) -> Exit:
    """PATH|FILE_ID [OUT], or -r PREFIX/ [DIR]."""
    if arguments.recursive:
        return _get_tree(context, arguments)
    if arguments.target.endswith("/"):
        raise UsageError(f"{arguments.target} is no file's path: get -r fetches what lies under it")
    target = wanted(arguments.target)
    if arguments.out == "-":
        if arguments.resume or arguments.no_clobber:
            raise UsageError("--resume and --no-clobber need a file, not stdout")
        _to_stdout(context, target, arguments.if_match, arguments.if_none_match)
        return Exit.DONE
    if arguments.resume and arguments.if_none_match:
        raise UsageError("--resume and --if-none-match exclude each other")
    name = target.name
    if target.file_id is not None and (arguments.out is None or os.path.isdir(arguments.out)):
        try:
            name = context.client.upload_status(target.file_id).path or name
        except NotFound:
            raise NotFound(f"there is no file {target.file_id}") from None
    _get_one(context, arguments, target, output_file(arguments.out, name))
    return Exit.DONE


def _get_tree(context: Context, arguments: argparse.Namespace) -> Exit:
    if arguments.out == "-" or arguments.if_match or arguments.if_none_match:
        raise UsageError("get -r goes into a directory, and without --if-match and --if-none-match")
    prefix = stored_prefix(arguments.target)
    directory = Path(arguments.out or ".")
    try:
        directory.mkdir(exist_ok=True)
    except OSError as error:
        raise LocalFailure(f"cannot make the directory {printable(str(directory))}: {error.strerror}") from None
    tree = LocalTree(directory, folds=folds_names(directory))

    def fetch(path: str) -> None:
        _get_one(context, arguments, Wanted(path, None), tree.place(path.removeprefix(prefix)))

    return each(context, below(context, prefix), fetch)


def below(context: Context, prefix: str) -> Iterator[tuple[str, str] | DfsError]:
    """All paths that begin with `prefix`, as items for `each`; NotFound when there is none."""
    found = False
    for entry in context.client.list(prefix):
        if not isinstance(entry, Prefix) and entry.path is not None:
            found = True
            yield entry.path, entry.path
    if not found:
        yield NotFound(f"no path begins with {printable(prefix)}" if prefix else "the bucket is empty")


def _get_one(context: Context, arguments: argparse.Namespace, target: Wanted, out: Path) -> None:
    with context.console.progress(target.name) as progress:
        stored = context.client.get(
            target.path,
            out,
            file_id=target.file_id,
            if_match=arguments.if_match,
            if_none_match=arguments.if_none_match,
            replace=not arguments.no_clobber,
            resume=arguments.resume,
            progress=progress,
        )
    context.console.done({"out": str(out)} | asdict(stored), f"{out}  {format_size(stored.size)}  {stored.file_id}")


def cat(context: Context, arguments: argparse.Namespace) -> Exit:
    """Files to stdout; the first that fails ends it, because the rest would follow a hole."""
    for target in [wanted(text) for text in arguments.targets]:
        _to_stdout(context, target, None, None)
    return Exit.DONE


def _to_stdout(context: Context, target: Wanted, if_match: str | None, if_none_match: str | None) -> None:
    console = context.console
    console.content_on_stdout = True
    with console.progress(target.name) as progress:
        stored = context.client.get(
            target.path,
            console.binary_out,
            file_id=target.file_id,
            if_match=if_match,
            if_none_match=if_none_match,
            progress=progress,
        )
    console.done({"out": "-"} | asdict(stored), "")


def upload(context: Context, arguments: argparse.Namespace) -> Exit:
    """The seed's upload."""
    with context.console.progress(arguments.file) as progress:
        stored = context.client.upload(arguments.file, chunk_size=arguments.chunk_size, progress=progress)
    context.console.result(
        asdict(stored),
        f"Uploaded {stored.size} bytes in {stored.chunks} chunk{'' if stored.chunks == 1 else 's'}"
        f" of {stored.chunk_size} bytes\n"
        f"Upload complete! File ID: {stored.file_id}",
    )
    return Exit.DONE


def download(context: Context, arguments: argparse.Namespace) -> Exit:
    """The seed's download."""
    with context.console.progress(arguments.file_id) as progress:
        size = context.client.download(arguments.file_id, arguments.out, progress=progress)
    context.console.result(
        {"file_id": arguments.file_id.lower(), "out": arguments.out, "size": size},
        f"Downloaded {size} bytes\nDownload complete! File saved to: {arguments.out}",
    )
    return Exit.DONE
