"""What can go wrong on the client's side of the wire, beside the errors that servers answer.

All but `UsageError` are `DfsError`s, so that callers of the library catch one tree.
"""

from __future__ import annotations

import errno
import os

from dfs.errors import DfsError, Unavailable


class UsageError(Exception):
    """The command line is wrong; the message says how."""


class LocalFailure(DfsError):
    """Something on this machine failed: a file cannot be read or written, an answer makes no sense."""

    status = 0
    code = "local"


class LocalConflict(LocalFailure):
    """A local file is in the way and must not be replaced."""

    code = "exists"


class VerifyFailed(DfsError):
    """The bytes that arrived, or were stored, are not the bytes that were meant."""

    status = 0
    code = "verify_failed"


class DamagedOnTheWay(VerifyFailed):
    """A chunk arrived with other bytes than its checksum says; asking again may bring good ones."""

    retryable = True


class Unreachable(Unavailable):
    """No API server could be reached; nothing was sent."""


class Replaced(DfsError):
    """The path shows another file than when the download began."""

    status = 412
    code = "condition_failed"


def local_failure(action: str, path: str | os.PathLike[str], error: OSError) -> LocalFailure:
    """`error` as one sentence: `cannot write OUT: No space left on device`."""
    reason = error.strerror or str(error)
    if error.errno == errno.EXDEV:
        reason = "it lies on another file system"
    return LocalFailure(f"cannot {action} {printable(os.fspath(path))}: {reason}")


def printable(text: str) -> str:
    """`text` fit for one line of a terminal: other characters are shown escaped."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
