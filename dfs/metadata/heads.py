"""Heads as they change: what a commit or move did, which version comes next, what is replaced."""

from __future__ import annotations

from dataclasses import dataclass

from dfs.metadata.steps import ChangeFile
from dfs.model import FileRecord, FileState, Head, Retired

COMMITTED = frozenset({FileState.COMMITTED})


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit or move did: the head put, and the file it replaced.

    `repeated`: an earlier attempt had done it; then `head` is the head as it was put (or where the
    file was moved to since), which the path need not show any more, and a commit's `replaced` is None.
    """

    head: Head
    replaced: Head | None
    repeated: bool


def head_of(record: FileRecord) -> Head:
    """The head that shows a committed (or once committed) file."""
    return Head(
        bucket=record.bucket,
        path=record.path,
        file_id=record.file_id,
        version=record.version,
        size=record.size,
        sha256=record.sha256,
        content_type=record.content_type,
        chunk_size=record.chunk_size,
        chunk_count=record.chunk_count,
        modified=record.modified,
    )


def next_version(seen: Head | None, now_ms: int) -> int:
    """The version of the head that is put where `seen` was."""
    return now_ms if seen is None else max(seen.version + 1, now_ms)


def retire(head: Head, state: FileState, now_ms: int, why: Retired) -> ChangeFile:
    """The file a path no longer shows becomes `state`; bucket, path and version stay for the trash."""
    changes = {
        "state": state,
        "bucket": head.bucket,
        "path": head.path,
        "version": head.version,
        "touched_at": now_ms,
        "retired": why.value if state is FileState.TRASHED else "",
        "size": head.size,
    }
    return ChangeFile(head.file_id, COMMITTED, changes, version=head.version)
