"""Files leave the trash: back to a path, or for good, each exactly once.

The rules they follow are in `operations`. A restore, a purge and the end of a file's retention are all
conditional on when the file came to the trash, so of several at once exactly one happens.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

from dfs.errors import ConditionFailed, DfsError, NotFound
from dfs.metadata import keys
from dfs.metadata.attempts import Attempts
from dfs.metadata.contract import GcEntry, GcKind, MetadataStore
from dfs.metadata.heads import head_of
from dfs.metadata.operationrecord import Operation
from dfs.metadata.steps import ChangeFile, PutHead, Step
from dfs.model import FileRecord, FileState, Head, Retired

LATEST = "latest"
"""In place of a file id: the last file that left the path for the trash, as far as the index knows."""

_TRASHED = frozenset({FileState.TRASHED})
_WINDOWS_MS = (60_000, 3_600_000, 7 * 86_400_000)
"""How far back from now the newest file of a path is looked for before all of them are gone through: an hour
of overwriting leaves thousands."""

_CANDIDATES = 64
_PAGE = 1000
_LOOKS = 4


def restore_path(
    store: MetadataStore,
    bucket: str,
    path: str,
    which: str,
    now_ms: int,
    *,
    to: str | None = None,
    op_id: str | None = None,
    pause: Callable[[float], None] = time.sleep,
) -> Head:
    """Make `path` (or `to`) show a file again that left `path` for the trash; returns the new head.

    `which` is the file's id, or LATEST. Repeated under the same `op_id` it returns (or raises) what the first
    did. Raises NotFound when the file is not in the trash (any more), or left another path; ConditionFailed
    when the path shows a file.
    """
    target = path if to is None else to
    named = {"op": "restore", "bucket": bucket, "path": path, "which": which, "to": target}
    operation = Operation(store, op_id, named, now_ms)
    with Attempts(store) as tries:
        for number in tries:
            found = _latest(store, bucket, path, now_ms, pause) if which == LATEST else store.get_file(which)
            there = store.get_head(bucket, target)
            problem: DfsError | None = None
            if found is None or not _left(found, bucket, path):
                problem = _missing(path, which)
            elif there is not None:
                problem = ConditionFailed(f"{target!r} shows file {there.file_id}; restore to another path, or move that")
            done = operation.earlier(tries, asked=problem is not None or number > 0)
            if done is not None:
                return Head(**done["head"])
            if problem is not None or found is None:
                operation.refuse(tries, problem or _missing(path, which))
                continue
            version = _above_all(store, bucket, target, max(found.version + 1, now_ms))
            changes = {
                "state": FileState.COMMITTED,
                "path": target,
                "version": version,
                "touched_at": now_ms,
                "retired": "",
            }
            head = head_of(replace(found, path=target, version=version))
            steps: list[Step] = [_leaving(found, changes), PutHead(head, None), operation.record({"head": asdict(head)})]
            if tries.send(steps):
                return head
    raise AssertionError("unreachable")


def purge_trashed(
    store: MetadataStore, bucket: str, path: str, file_id: str, now_ms: int, *, op_id: str | None = None
) -> Head:
    """Delete a file for good that left `path` for the trash; returns the head that showed it last.

    Whatever the path shows now is left alone. Repeats under the same `op_id` are answered like the first.
    Raises NotFound when the file is not in the trash (any more), or left another path.
    """
    operation = Operation(store, op_id, {"op": "purge", "bucket": bucket, "path": path, "file_id": file_id}, now_ms)
    with Attempts(store) as tries:
        for number in tries:
            found = store.get_file(file_id)
            problem = None if found is not None and _left(found, bucket, path) else _missing(path, file_id)
            done = operation.earlier(tries, asked=problem is not None or number > 0)
            if done is not None:
                return Head(**done["head"])
            if problem is not None or found is None:
                operation.refuse(tries, problem or _missing(path, file_id))
                continue
            head = head_of(found)
            if tries.send([_leaving(found, erasing(now_ms)), operation.record({"head": asdict(head)})]):
                return head
    raise AssertionError("unreachable")


def erasing(now_ms: int) -> dict[str, object]:
    """The changes by which a file in the trash becomes one that is erased after the grace."""
    return {"state": FileState.DELETING, "touched_at": now_ms, "retired": ""}


def expire(entry: GcEntry, now_ms: int) -> ChangeFile:
    """The step by which a file leaves the trash for good, refused unless it has been there since `entry.at`."""
    return ChangeFile(entry.id, _TRASHED, erasing(now_ms), version=entry.version, touched_at=entry.at)


def _leaving(record: FileRecord, changes: dict[str, object]) -> ChangeFile:
    return ChangeFile(record.file_id, _TRASHED, changes, version=record.version, touched_at=record.touched_at)


def _left(record: FileRecord, bucket: str, path: str) -> bool:
    return record.state is FileState.TRASHED and (record.bucket, record.path) == (bucket, path)


def _missing(path: str, which: str) -> NotFound:
    if which == LATEST:
        return NotFound(f"the trash holds no file of {path!r}")
    return NotFound(f"file {which} of {path!r} is not in the trash")


def _latest(
    store: MetadataStore, bucket: str, path: str, now_ms: int, pause: Callable[[float], None]
) -> FileRecord | None:
    """The file of the highest version that left `path` for the trash.

    Where the index lags, a file deleted just now may not be in it yet: what it shows at first (nothing, a file
    that was replaced by another, one of an earlier delete) is believed only after that time.
    """
    first = found = _newest(store, bucket, path, now_ms)
    for _ in range(_LOOKS if store.index_lag else 0):
        if found is not None and found != first and found.retired != Retired.REPLACED:
            break
        if store.get_head(bucket, path) is not None:
            break
        pause(store.index_lag / _LOOKS)
        found = _newest(store, bucket, path, now_ms)
    return found


def _above_all(store: MetadataStore, bucket: str, path: str, version: int) -> int:
    """`version`, or one above every version under which a file left `path` for the trash: another server's clock
    may be ahead of ours."""
    for entry in _entries(store, bucket, path, version):
        version = max(version, entry.version + 1)
    return version


def _newest(store: MetadataStore, bucket: str, path: str, now_ms: int) -> FileRecord | None:
    for since in (*(max(0, now_ms - window) for window in _WINDOWS_MS), 0):
        for entry in reversed(deque(_entries(store, bucket, path, since), _CANDIDATES)):
            record = store.get_file(entry.id)
            if record is not None and _left(record, bucket, path):
                return record
    return None


def _entries(store: MetadataStore, bucket: str, path: str, since: int) -> Iterator[GcEntry]:
    """The index entries of `path` with versions from `since`, by version."""
    (partition,) = keys.gc_partitions(GcKind.TRASHED, [bucket])
    begin, after = keys.trash_after(path), keys.trash_after(path, since)
    while page := store.gc_entries(partition, after=after, limit=_PAGE):
        for entry in page:
            if not entry.key.startswith(begin):
                return
            yield entry
        after = page[-1].key
