"""Paths that stop showing a file, or show it elsewhere: delete and move, each exactly once.

The rules they follow are in `operations`.
"""

from __future__ import annotations

from dataclasses import asdict, replace

from dfs.errors import ConditionFailed, DfsError, NotFound
from dfs.metadata.attempts import Attempts
from dfs.metadata.contract import MetadataStore
from dfs.metadata.heads import COMMITTED, Committed, next_version, retire
from dfs.metadata.operationrecord import Operation
from dfs.metadata.preconditions import Precondition, failed
from dfs.metadata.steps import ChangeFile, PutHead, RemoveHead, Step
from dfs.model import FileState, Head, Retired


def delete_path(
    store: MetadataStore,
    bucket: str,
    path: str,
    condition: Precondition,
    now_ms: int,
    *,
    purge: bool = False,
    op_id: str | None = None,
) -> Head:
    """Take the file off the path, to the trash or, with `purge`, for good; returns the head removed.

    Repeated under the same `op_id` it returns (or raises) what the first did, even when the path
    shows another file by then. Raises NotFound, ConditionFailed.
    """
    named: dict[str, object] = {"op": "delete", "bucket": bucket, "path": path}
    if purge:
        named["purge"] = True  # an earlier delete to the trash is no answer to this
    operation = Operation(store, op_id, named, now_ms)
    state = FileState.DELETING if purge else FileState.TRASHED
    with Attempts(store) as tries:
        for number in tries:
            head = store.get_head(bucket, path)
            problem = _problem(head, condition, path)
            done = operation.earlier(tries, asked=problem is not None or number > 0)
            if done is not None:
                return Head(**done["head"])
            if problem is not None or head is None:
                operation.refuse(tries, problem or NotFound(path))
                continue
            record = operation.record({"head": asdict(head)})
            if tries.send([RemoveHead(head), retire(head, state, now_ms, Retired.DELETED), record]):
                return head
    raise AssertionError("unreachable")


def move_path(
    store: MetadataStore,
    bucket: str,
    source: str,
    target: str,
    condition: Precondition,
    now_ms: int,
    *,
    overwrite: bool = False,
    op_id: str | None = None,
) -> Committed:
    """Make `target` show the file of `source`, and `source` nothing, atomically.

    `condition` is on the source. A file at the target is refused (ConditionFailed) or, with
    `overwrite`, trashed. Moving a file onto itself succeeds and changes nothing. Repeats under the
    same `op_id` are answered like the first. Raises NotFound, ConditionFailed.
    """
    named = {"op": "move", "bucket": bucket, "path": source, "to": target}
    operation = Operation(store, op_id, named, now_ms)
    with Attempts(store) as tries:
        for number in tries:
            head = store.get_head(bucket, source)
            there = store.get_head(bucket, target) if target != source else None
            if head is not None and there is not None and store.get_head(bucket, source) != head:
                continue  # They were not there at one moment: nothing follows from the two.
            problem = _problem(head, condition, source)
            if problem is None and there is not None and not overwrite:
                problem = ConditionFailed(f"{target!r} exists, and overwriting was not asked for")
            done = operation.earlier(tries, asked=problem is not None or number > 0)
            if done is not None:
                replaced = Head(**done["replaced"]) if done["replaced"] else None
                return Committed(Head(**done["head"]), replaced, repeated=True)
            if problem is not None or head is None:
                operation.refuse(tries, problem or NotFound(source))
                continue
            if target == source:
                return Committed(head, None, repeated=False)
            moved = replace(head, path=target, version=max(head.version + 1, next_version(there, now_ms)))
            changes = {"path": target, "version": moved.version}
            steps: list[Step] = [
                RemoveHead(head),
                PutHead(moved, there),
                ChangeFile(head.file_id, COMMITTED, changes, version=head.version),
                operation.record({"head": asdict(moved), "replaced": asdict(there) if there else None}),
            ]
            if there is not None:
                steps.append(retire(there, FileState.TRASHED, now_ms, Retired.REPLACED))
            if tries.send(steps):
                return Committed(moved, there, repeated=False)
    raise AssertionError("unreachable")


def _problem(head: Head | None, condition: Precondition, path: str) -> DfsError | None:
    if head is None:
        return NotFound(f"there is no file at {path!r}")
    return None if condition.holds(head) else failed(head)
