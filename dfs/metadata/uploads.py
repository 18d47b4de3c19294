"""Uploads: begin, touch, commit, discard. The rules they follow are in `operations`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from dfs.errors import ConditionFailed, DfsError, Gone
from dfs.metadata.attempts import Attempts
from dfs.metadata.contract import MetadataStore
from dfs.metadata.heads import Committed, head_of, next_version, retire
from dfs.metadata.preconditions import Precondition, failed
from dfs.metadata.steps import ChangeFile, PutFile, PutHead, PutOperation, PutReplica, PutShort, Step
from dfs.model import ChunkReplica, FileRecord, FileState, Head, Retired

_UPLOADING = frozenset({FileState.UPLOADING})


def begin_upload(store: MetadataStore, record: FileRecord) -> FileRecord:
    """Record an upload; returns the stored record.

    A repeat returns what is stored: still `uploading`, or, when the upload was committed before
    (`version` > 0), in whatever state the file is now: the upload is done, do not store chunks.
    Raises ConditionFailed when the id belongs to another upload or this upload was refused before,
    Gone when it was aborted.
    """
    record = replace(_named(record), state=FileState.UPLOADING, version=0, modified=0)
    with Attempts(store) as tries:
        for _ in tries:
            if tries.send([PutFile(record)]):
                return record
            stored = store.get_file(record.file_id)
            if stored is not None:
                _check_same(record, stored, sizes=stored.version == 0)
                if stored.state is FileState.DELETING and stored.version == 0:
                    raise _refusal(store, stored)
                return stored
    raise AssertionError("unreachable")


def touch_upload(store: MetadataStore, record: FileRecord, now_ms: int) -> FileRecord:
    """Note that the upload is alive; returns the record as it is now (committed perhaps).

    Raises Gone or ConditionFailed when it was aborted or refused.
    """
    with Attempts(store) as tries:
        for _ in tries:
            if _touch(tries, record, now_ms):
                return replace(record, touched_at=max(now_ms, record.touched_at + 1))
            stored = store.get_file(record.file_id)
            if stored is None or (stored.state is FileState.DELETING and stored.version == 0):
                raise _refusal(store, stored or record)
            if stored.state is not FileState.UPLOADING or stored.touched_at >= now_ms:
                return stored
            record = stored
    raise AssertionError("unreachable")


def commit_file(
    store: MetadataStore,
    record: FileRecord,
    condition: Precondition,
    now_ms: int,
    *,
    replicas: Sequence[ChunkReplica] = (),
    short: Sequence[PutShort] = (),
) -> Committed:
    """Make the path show the file: atomically, durably, once.

    With `replicas` the file has at most one chunk and its record is created in the same
    transaction; without, the record exists as `uploading` and all rows are there already. The file
    replaced becomes `trashed`. A repeat of a commit that happened succeeds whatever the path shows now.

    Raises ConditionFailed when `condition` does not hold (a file with `replicas` is then discarded,
    an upload stays), or the id belongs to another file; Gone when the upload was aborted or erased.
    """
    record = _named(record)
    creating = bool(replicas)
    with Attempts(store) as tries:
        for _ in tries:
            stored = None if creating else _required(store, record)
            if stored is not None:
                done = _settled(store, record, stored)
                if done is not None:
                    return done
            try:
                plan = _CommitPlan(record, stored, condition, now_ms, [*map(PutReplica, replicas), *short])
                if tries.send_on(record.bucket, record.path, plan):
                    return plan.committed()
            except _Shown:
                creating = False  # An earlier attempt was applied: its record tells.
                continue
            except _Excluded as excluded:
                refusal = failed(excluded.seen)
                if _fence(store, tries, record, stored, now_ms, refusal):
                    raise refusal from None
                creating = False
                continue
            creating = creating and store.get_file(record.file_id) is None
    raise AssertionError("unreachable")


def find_commit(store: MetadataStore, record: FileRecord) -> Committed | None:
    """The result of an earlier commit of this upload, None when there is none (yet).

    A server asks this before it refuses a repeated upload by its condition. Raises like `commit_file`.
    """
    stored = store.get_file(record.file_id)
    return None if stored is None else _settled(store, _named(record), stored)


def discard_upload(
    store: MetadataStore, record: FileRecord, now_ms: int, *, reason: str | None = None
) -> bool:
    """Give the upload up: its record becomes `deleting`, so that a late commit fails and the eraser
    finds its bytes. False when it was committed meanwhile. Harmless to repeat.

    With `reason` a repeat of the upload is refused with ConditionFailed(reason), else with Gone.
    Never call this after a failure that the client may answer by repeating under the same id.
    """
    record = _named(record)
    with Attempts(store) as tries:
        for _ in tries:
            stored = store.get_file(record.file_id)
            steps: list[Step]
            if stored is None:
                gone = replace(record, state=FileState.DELETING, version=0, modified=0, touched_at=now_ms)
                steps = [PutFile(gone)]
            elif stored.state is FileState.UPLOADING:
                changes = {"state": FileState.DELETING, "touched_at": now_ms}
                steps = [ChangeFile(record.file_id, _UPLOADING, changes)]
            else:
                return stored.version == 0
            # The reason of an earlier refusal may outlive its record: the eraser removes each by itself.
            if reason is not None and store.operation(record.file_id) is None:
                refusal = {"op": "put", "refused": ConditionFailed.code, "message": reason}
                steps.append(PutOperation(record.file_id, refusal, now_ms))
            if tries.send(steps):
                return True
    raise AssertionError("unreachable")


def _named(record: FileRecord) -> FileRecord:
    return record if record.origin else replace(record, origin=f"{record.bucket}/{record.path}")


def _required(store: MetadataStore, record: FileRecord) -> FileRecord:
    stored = store.get_file(record.file_id)
    if stored is None:
        raise _refusal(store, record)
    return stored


def _check_same(record: FileRecord, stored: FileRecord, *, sizes: bool) -> None:
    same = stored.origin == record.origin and stored.chunk_size == record.chunk_size
    if sizes:
        same = same and stored.size == record.size
    if same and stored.sha256 is not None and record.sha256 is not None:
        same = stored.sha256 == record.sha256
    if not same:
        raise ConditionFailed(f"id {record.file_id} belongs to an upload of another file")


def _settled(store: MetadataStore, record: FileRecord, stored: FileRecord) -> Committed | None:
    """The result when the stored record is past committing, None while it is uploading."""
    if stored.state is FileState.DELETING and stored.version == 0:
        raise _refusal(store, stored)
    _check_same(record, stored, sizes=stored.version > 0)
    if stored.state is FileState.UPLOADING:
        return None
    return Committed(head_of(stored), None, repeated=True)


def _refusal(store: MetadataStore, record: FileRecord) -> DfsError:
    """The error of an upload that was discarded before it was committed."""
    result = store.operation(record.file_id)
    if result is not None and "refused" in result:
        return ConditionFailed(result["message"])
    return Gone(f"upload {record.file_id} was aborted or has expired; begin again with a new id")


def _touch(tries: Attempts, record: FileRecord, now_ms: int) -> bool:
    changes = {"touched_at": max(now_ms, record.touched_at + 1)}
    return tries.send([ChangeFile(record.file_id, _UPLOADING, changes, touched_at=record.touched_at)])


def _fence(
    store: MetadataStore,
    tries: Attempts,
    record: FileRecord,
    stored: FileRecord | None,
    now_ms: int,
    refusal: ConditionFailed,
) -> bool:
    """Whether no commit of this file that was sent before can be applied any more."""
    if stored is not None:
        return _touch(tries, stored, now_ms)
    return discard_upload(store, record, now_ms, reason=refusal.message)


class _Shown(Exception):
    """The path shows the very file that is being committed."""


class _Excluded(Exception):
    """The commit's condition does not hold of the path's head, `seen`."""

    def __init__(self, seen: Head | None) -> None:
        super().__init__()
        self.seen = seen


class _CommitPlan:
    """From the path's head to the steps of a commit (a `build` of `transact_on`), remembering the last.

    Raises _Shown or _Excluded instead of steps. `more` are the rows of a file created by the commit.
    """

    def __init__(
        self,
        record: FileRecord,
        stored: FileRecord | None,
        condition: Precondition,
        now_ms: int,
        more: Sequence[Step],
    ) -> None:
        self._record = record
        self._stored = stored
        self._condition = condition
        self._now_ms = now_ms
        self._more = more
        self._planned: tuple[Head, Head | None] | None = None

    def __call__(self, seen: Head | None) -> list[Step]:
        if seen is not None and seen.file_id == self._record.file_id:
            raise _Shown
        if not self._condition.holds(seen):
            raise _Excluded(seen)
        head, steps = _commit_steps(self._record, self._stored, seen, self._now_ms)
        self._planned = head, seen
        return [*steps, *self._more]

    def committed(self) -> Committed:
        """The outcome, once the steps returned last were applied."""
        if self._planned is None:
            raise AssertionError("nothing was planned")
        head, replaced = self._planned
        return Committed(head, replaced, repeated=False)


def _commit_steps(
    record: FileRecord, stored: FileRecord | None, seen: Head | None, now_ms: int
) -> tuple[Head, list[Step]]:
    version = next_version(seen, now_ms)
    final = replace(record, state=FileState.COMMITTED, version=version, touched_at=now_ms, modified=now_ms)
    head = head_of(final)
    steps: list[Step] = [PutHead(head, seen)]
    if stored is None:
        steps.append(PutFile(final))
    else:
        changes = {
            name: getattr(final, name)
            for name in final.__dataclass_fields__
            if name not in ("file_id", "created_at", "origin")
        }
        # The touch time is part of the condition so that touching the record fences this transaction.
        steps.append(ChangeFile(record.file_id, _UPLOADING, changes, touched_at=stored.touched_at))
    if seen is not None:
        steps.append(retire(seen, FileState.TRASHED, now_ms, Retired.REPLACED))
    return head, steps
