"""The command line from argument to exit code. Nothing leaves here as a traceback."""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from dfs import settings
from dfs.client import browse, transfer
from dfs.client.arguments import build_parser
from dfs.client.chunks import WORKERS
from dfs.client.client import Client
from dfs.client.console import Console
from dfs.client.exits import Exit, exit_code
from dfs.client.failures import LocalFailure, UsageError
from dfs.client.retry import RetryPolicy
from dfs.client.transfer import Context
from dfs.client.transport import Transport
from dfs.errors import DfsError, SettingsError
from dfs.settings import ClientSettings

_COMMANDS: dict[str, Callable[[Context, argparse.Namespace], Exit]] = {
    "put": transfer.put,
    "get": transfer.get,
    "cat": transfer.cat,
    "upload": transfer.upload,
    "download": transfer.download,
    "ls": browse.ls,
    "stat": browse.stat,
    "mv": browse.mv,
    "rm": browse.rm,
    "restore": browse.restore,
    "nodes": browse.nodes,
    "buckets": browse.buckets,
    "mkbucket": browse.mkbucket,
}


def main(argv: Sequence[str] | None = None, *, prog: str = "dfs-client") -> int:
    """Run a command line (default: this process's) with the process's streams; returns the exit code."""
    with _sigterm_unwinds():
        return run(sys.argv[1:] if argv is None else argv, sys.stdin, sys.stdout, sys.stderr, prog=prog)


def run(
    argv: Sequence[str],
    stdin: TextIO,
    stdout: TextIO,
    stderr: TextIO,
    *,
    prog: str = "dfs-client",
    transport: Transport | None = None,
    environ: Mapping[str, str] | None = None,
) -> int:
    """Run a command line with these streams; returns the exit code.

    `transport` and `environ` stand for the network and the environment in tests.
    """
    for stream in (stdout, stderr):  # a name outside the locale's characters must not end a listing
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            reconfigure(errors="backslashreplace")
    console = Console(stdin, stdout, stderr, as_json="--json" in argv, quiet=False)
    try:
        arguments = build_parser(prog).parse_args(argv)
        console = Console(stdin, stdout, stderr, as_json=arguments.json, quiet=arguments.quiet)
        try:
            return int(_execute(arguments, console, transport, environ))
        except DfsError as error:
            console.failure(error)
            return exit_code(error)
        finally:
            stdout.flush()
    except BrokenPipeError:
        _silence(stdout)
        return Exit.OTHER
    except (UsageError, SettingsError) as error:
        console.complain(str(error))
        return Exit.USAGE
    except KeyboardInterrupt:
        console.complain("interrupted")
        return Exit.INTERRUPTED
    except OSError as error:
        _silence(stdout)
        console.complain(f"cannot go on: {error.strerror or error}")
        return Exit.OTHER
    except Exception as error:  # a bug; a person gets a sentence, not a traceback
        console.complain(f"internal error: {type(error).__name__}: {error}; please report this")
        return Exit.OTHER


def _execute(
    arguments: argparse.Namespace, console: Console, transport: Transport | None, environ: Mapping[str, str] | None
) -> Exit:
    api = getattr(arguments, "api_url", None) or arguments.api
    chosen = settings.load(ClientSettings, environ=environ, api=api)

    def on_retry(error: DfsError, _: float) -> None:
        console.notice(f"{error.message}; trying again")

    client = Client(
        chosen.api,
        bucket=arguments.bucket,
        timeout=arguments.timeout,
        jobs=getattr(arguments, "jobs", None) or WORKERS,
        retry=RetryPolicy().limited(arguments.retry_for),
        on_retry=on_retry,
        transport=transport,
    )
    with client:
        return _COMMANDS[arguments.command](Context(client, console, lambda: state_directory(chosen)), arguments)


def state_directory(chosen: ClientSettings) -> Path:
    """Where uploads are remembered: `$XDG_STATE_HOME/dfs/uploads`, else `~/.local/state/dfs/uploads`.

    A relative XDG_STATE_HOME counts as not set, as its specification says. Raises LocalFailure.
    """
    if chosen.state_home is not None and chosen.state_home.is_absolute():
        return chosen.state_home / "dfs" / "uploads"
    if chosen.home is None or not chosen.home.is_absolute():
        raise LocalFailure("--resume has no place to remember the upload: set HOME or XDG_STATE_HOME")
    return chosen.home / ".local" / "state" / "dfs" / "uploads"


def _silence(stdout: TextIO) -> None:
    """Nobody reads stdout any more: let the interpreter's last flush go nowhere."""
    with contextlib.suppress(OSError, ValueError):  # not a real file: nothing will be flushed
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stdout.fileno())
        os.close(nowhere)


@contextlib.contextmanager
def _sigterm_unwinds() -> Iterator[None]:
    """SIGTERM and SIGHUP end the process as Ctrl-C does: temporary files are removed on the way."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, _: FrameType | None) -> None:
        raise SystemExit(128 + number)

    numbers = [signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # else nohup wants us to go on
        numbers.append(signal.SIGHUP)
    before = [(number, signal.signal(number, leave)) for number in numbers]
    try:
        yield
    finally:
        for number, handler in before:
            signal.signal(number, handler)
