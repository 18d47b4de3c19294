"""The command line: every command with its arguments."""

from __future__ import annotations

import argparse
import string
from collections.abc import Callable
from typing import Any, NoReturn

from dfs import __version__
from dfs.client.client import MOST_JOBS
from dfs.client.failures import UsageError
from dfs.errors import DfsError
from dfs.model import parse_file_id
from dfs.notation import parse_size, parse_time

_EPILOG = """\
PATH is a path of the store, such as photos/2025/a.jpg. FILE_ID is a file's UUID; where both are
allowed, path:NAME makes a name that looks like a UUID a path. `-` is stdin or stdout.

exit codes: 0 done, 1 other, 2 usage, 3 not found, 4 condition or conflict, 5 unavailable or unknown,
6 does not verify, 7 some of several failed, 130 interrupted
"""


class Parser(argparse.ArgumentParser):
    """A parser whose complaints are one line."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"allow_abbrev": False} | kwargs)

    def error(self, message: str) -> NoReturn:
        """Raise UsageError."""
        raise UsageError(f"{message}; `{self.prog} --help` shows how")


def _size(text: str) -> int:
    try:
        return parse_size(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be {error}") from None


def _chunk_size(text: str) -> int:
    size = _size(text)
    if size < 1:
        raise argparse.ArgumentTypeError("a chunk has at least one byte")
    return size


def _seed_chunk_size(text: str) -> int:
    """As the seed's client took it: 0 or less means the server's default."""
    try:
        return int(text)
    except ValueError:
        return _size(text)


def _jobs(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) <= MOST_JOBS):
        raise argparse.ArgumentTypeError(f"{text!r} must be a number of connections, 1 to {MOST_JOBS}")
    return int(text)


def _uuid(text: str) -> str:
    try:
        return parse_file_id(text)
    except DfsError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a version 4 UUID") from None


def _sha256(text: str) -> str:
    if len(text) != 64 or not all(char in string.hexdigits for char in text):
        raise argparse.ArgumentTypeError("a SHA-256 is 64 hexadecimal digits")
    return text


def _seconds(text: str) -> float:
    try:
        return parse_time(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} must be {error}") from None


def _positive(text: str) -> float:
    seconds = _seconds(text)
    if seconds <= 0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return seconds


def _add_common(parser: argparse.ArgumentParser, *, top: bool) -> None:
    """Options that may stand before or behind the command."""

    def default(value: Any) -> Any:
        return value if top else argparse.SUPPRESS

    group = parser.add_argument_group("common options")
    group.add_argument(
        "--api", metavar="URL[,URL…]", default=default(None), help="API servers, tried in turn (else DFS_API)"
    )
    group.add_argument("--bucket", default=default("default"), help="namespace of the paths (default: default)")
    group.add_argument("--json", action="store_true", default=default(False), help="one JSON object a line on stdout")
    group.add_argument("-q", "--quiet", action="store_true", default=default(False), help="only errors")
    group.add_argument(
        "--timeout", type=_positive, default=default(60.0), metavar="TIME", help="longest time without progress (60s)"
    )
    group.add_argument(
        "--retry-for", type=_seconds, default=default(30.0), metavar="TIME", help="time spent waiting to try again (30s)"
    )


def build_parser(prog: str) -> Parser:
    """The parser of the whole command line; `command` of its result names the command."""
    parser = Parser(
        prog=prog,
        description="Store and fetch files in a dfs cluster.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"dfs {__version__}")
    _add_common(parser, top=True)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    def command(name: str, summary: str, fill: Callable[[Parser], None]) -> None:
        added = commands.add_parser(name, help=summary, description=summary + ".")
        fill(added)
        _add_common(added, top=False)

    command("put", "store files: FILE [PATH], FILE… DIR/, or -r DIR [PREFIX/]", _put)
    command("get", "fetch a file, whole and verified or not at all", _get)
    command("cat", "write a file to stdout", _cat)
    command("ls", "list paths", _ls)
    command("stat", "show what is known of a file", _stat)
    command("mv", "rename a file", _mv)
    command("rm", "delete files, to the trash unless --purge", _rm)
    command("restore", "bring a file back from the trash", _restore)
    command("nodes", "list the storage nodes", lambda _: None)
    command("buckets", "list the buckets", lambda _: None)
    command("mkbucket", "make a bucket", lambda each: _named(each, "bucket_name", "NAME"))
    command("upload", "store a file by the seed protocol", _upload)
    command("download", "fetch a file by the seed protocol", _download)
    return parser


def _named(parser: Parser, dest: str, metavar: str, help: str | None = None) -> None:
    parser.add_argument(dest, metavar=metavar, help=help)


def _conditions(parser: Parser) -> None:
    parser.add_argument("--if-match", metavar="ETAG", help="only if the path shows this file now")


def _operation(parser: Parser) -> None:
    parser.add_argument("--op-id", type=_uuid, metavar="UUID", help="repeat the operation of this id, never doing it twice")


def _connections(parser: Parser, help: str) -> None:
    parser.add_argument("--jobs", type=_jobs, metavar="N", help=help)


def _put(parser: Parser) -> None:
    parser.add_argument("names", nargs="+", metavar="FILE", help="files to store (`-`: stdin), then PATH, DIR/ or PREFIX/")
    parser.add_argument("-r", "--recursive", action="store_true", help="store a directory's files under PREFIX/")
    parser.add_argument("--resume", action="store_true", help="go on with an interrupted put of the same file")
    _conditions(parser)
    parser.add_argument("--if-none-match", metavar="ETAG", help="only if the path shows another file (`*`: none) now")
    parser.add_argument("--no-clobber", action="store_true", help="only create: short for --if-none-match '*'")
    parser.add_argument("--chunk-size", type=_chunk_size, metavar="SIZE", help="such as 1MiB (else the servers choose)")
    parser.add_argument("--content-type", metavar="TYPE", help="media type (else guessed from the name)")
    parser.add_argument("--sha256", type=_sha256, metavar="HEX", help="refuse the file if it does not have this SHA-256")
    _connections(parser, "send a large file in chunks over N connections (default: 1, as it is; with --resume 4)")
    _operation(parser)


def _get(parser: Parser) -> None:
    _named(parser, "target", "PATH|FILE_ID", "what to fetch")
    parser.add_argument("out", nargs="?", metavar="OUT", help="file, directory or `-` (default: its name, here)")
    parser.add_argument("-r", "--recursive", action="store_true", help="fetch all paths under PREFIX/ into a directory")
    parser.add_argument("--resume", action="store_true", help="keep an interrupted download in OUT.part and go on")
    _conditions(parser)
    parser.add_argument("--if-none-match", metavar="ETAG", help="only if the path shows another file now")
    parser.add_argument("--no-clobber", action="store_true", help="never replace a file here")
    _connections(parser, "fetch a large file over N connections (default: 4)")


def _cat(parser: Parser) -> None:
    parser.add_argument("targets", nargs="+", metavar="PATH|FILE_ID", help="what to write, one after the other")


def _ls(parser: Parser) -> None:
    parser.add_argument("prefix", nargs="?", default="", metavar="PREFIX", help="only paths that begin so")
    parser.add_argument("-l", "--long", action="store_true", help="with size, time and file id")
    parser.add_argument("-r", "--recursive", action="store_true", help="all paths, not only up to the next `/`")
    parser.add_argument("--deleted", action="store_true", help="the files in the trash, with what `restore` needs")


def _stat(parser: Parser) -> None:
    parser.add_argument("targets", nargs="+", metavar="PATH|FILE_ID", help="what to show")


def _mv(parser: Parser) -> None:
    _named(parser, "source", "PATH", "what to rename")
    _named(parser, "destination", "NEW", "its new path, or a DIR/ to keep its last part")
    parser.add_argument("--overwrite", action="store_true", help="replace the file that NEW shows")
    _conditions(parser)
    _operation(parser)


def _rm(parser: Parser) -> None:
    parser.add_argument("paths", nargs="+", metavar="PATH", help="what to delete")
    parser.add_argument("-r", "--recursive", action="store_true", help="all paths under PATH/ (`/`: in the bucket)")
    parser.add_argument("--purge", action="store_true", help="for good, not to the trash")
    parser.add_argument(
        "--id", type=_uuid, metavar="FILE_ID", help="with --purge: this file in the trash (`ls --deleted` shows it)"
    )
    _conditions(parser)
    _operation(parser)


def _restore(parser: Parser) -> None:
    _named(parser, "path", "PATH", "the path that the file was deleted from, or replaced at")
    parser.add_argument("--id", type=_uuid, metavar="FILE_ID", help="this file (default: the last one)")
    parser.add_argument("--to", metavar="NEW", help="to another path, or a DIR/ to keep the last part")
    _operation(parser)


def _upload(parser: Parser) -> None:
    parser.add_argument(
        "-chunk-size", "--chunk-size", type=_seed_chunk_size, metavar="N", help="bytes a chunk (default: 1024)"
    )
    _named(parser, "api_url", "API_URL")
    _named(parser, "file", "FILE")


def _download(parser: Parser) -> None:
    _named(parser, "api_url", "API_URL")
    parser.add_argument("file_id", type=_uuid, metavar="FILE_ID")
    _named(parser, "out", "OUT")
