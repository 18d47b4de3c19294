"""Exit codes, and what to do about an error."""

from __future__ import annotations

from enum import IntEnum

from dfs import errors
from dfs.client.failures import LocalConflict, Unreachable, VerifyFailed
from dfs.errors import DfsError


class Exit(IntEnum):
    """The exit codes of every command."""

    DONE = 0
    OTHER = 1
    USAGE = 2
    NOT_FOUND = 3
    CONFLICT = 4
    UNAVAILABLE = 5
    UNVERIFIED = 6
    SOME_FAILED = 7
    INTERRUPTED = 130


_KINDS: tuple[tuple[tuple[type[DfsError], ...], Exit], ...] = (
    ((VerifyFailed, errors.ChecksumMismatch, errors.LengthMismatch, errors.CorruptChunk), Exit.UNVERIFIED),
    ((errors.NotFound, errors.Gone), Exit.NOT_FOUND),
    ((LocalConflict,), Exit.CONFLICT),
    ((errors.BadPath,), Exit.USAGE),
)

_ADVICE: tuple[tuple[type[DfsError], str], ...] = (
    (Unreachable, "is the API server running? --api or DFS_API says where it is"),
    (errors.Unknown, "repeat the command to make sure"),
    (errors.NotEnoughNodes, "`nodes` shows which are alive"),
    (errors.NoReplica, "`nodes` shows which are alive"),
    (errors.ClusterFull, "delete something for good (rm --purge) or add a node"),
    (errors.Unavailable, "try again later"),
    (errors.RequestTimeout, "try again"),
    (errors.ConditionFailed, "`stat` shows what is there now"),
    (errors.NotFinalized, "the upload has to be finished first"),
    (errors.NotFound, "`ls` and `buckets` show what is there"),
    (errors.TooManyChunks, "--chunk-size sets another size"),
)


def exit_code(error: DfsError) -> Exit:
    """The exit code that `error` ends a command with."""
    for kinds, code in _KINDS:
        if isinstance(error, kinds):
            return code
    if error.status in (409, 412):
        return Exit.CONFLICT
    return Exit.UNAVAILABLE if error.retryable else Exit.OTHER


def advice(error: DfsError) -> str | None:
    """What may help, None when the message says it all."""
    return next((text for kind, text in _ADVICE if isinstance(error, kind)), None)


def joint_exit(codes: list[Exit], items: int) -> Exit:
    """The exit code for `items` things of which those in `codes` failed.

    Some failed: 7. All failed for one reason: that reason's code.
    """
    if not codes:
        return Exit.DONE
    if len(codes) == items and len(set(codes)) == 1:
        return codes[0]
    return Exit.SOME_FAILED
