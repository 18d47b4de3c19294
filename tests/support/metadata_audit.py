"""What must hold of metadata after any history: heads and records agree, nobody won twice."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dfs.errors import ConditionFailed, DfsError, Gone, NotFound
from dfs.metadata.contract import MetadataStore
from dfs.metadata.listing import list_page
from dfs.metadata.operations import Committed, head_of
from dfs.model import FileRecord, FileState, Head

VISIBLE = (FileState.COMMITTED, FileState.TRASHED, FileState.DELETING)


@dataclass
class History:
    """What clients were told. One client appends at a time (list.append is atomic)."""

    attempted: list[FileRecord] = field(default_factory=list)
    committed: list[Committed] = field(default_factory=list)
    refused: list[tuple[str, DfsError]] = field(default_factory=list)
    deleted: list[tuple[str, Head]] = field(default_factory=list)
    moved: list[tuple[str, Committed]] = field(default_factory=list)
    restored: list[tuple[str, Head]] = field(default_factory=list)
    purged: list[tuple[str, Head]] = field(default_factory=list)


def all_heads(store: MetadataStore, bucket: str = "default") -> list[Head]:
    """Every head of a bucket."""
    heads: list[Head] = []
    cursor: str | None = None
    while True:
        page = list_page(store, bucket, cursor=cursor)
        heads += page.heads
        if page.cursor is None:
            return heads
        cursor = page.cursor


def once(values: Iterable[object]) -> bool:
    """Whether no value occurs twice."""
    seen = list(values)
    return len(set(seen)) == len(seen)


def audit(store: MetadataStore, history: History) -> None:
    """Asserts that what is stored and what was told agree."""
    records = {record.file_id: store.get_file(record.file_id) for record in history.attempted}
    heads = all_heads(store)
    shown = {head.file_id: head for head in heads}
    assert len(shown) == len(heads), "a file is shown by two paths"
    for head in heads:
        record = records[head.file_id]
        assert record is not None and record.state is FileState.COMMITTED, (head, record)
        assert head_of(record) == head
        assert {row.node_id for row in store.replicas(head.file_id)} == {"n1", "n2"}
    for file_id, record in records.items():
        if record is not None and record.state is FileState.COMMITTED:
            assert file_id in shown, f"{record} is committed and has no path"
    # Nothing acknowledged is lost, nothing refused is visible.
    for committed in history.committed:
        record = records[committed.head.file_id]
        assert record is not None and record.version > 0 and record.state in VISIBLE, (committed, record)
    for file_id, error in history.refused:
        assert isinstance(error, ConditionFailed | Gone | NotFound), error
        record = records[file_id]
        assert record is None or record.version == 0, f"{record} was refused ({error}) and is visible"
    # Exactly one winner: no file was replaced, deleted or moved away from one version twice.
    replaced = [c.replaced for c in history.committed if c.replaced]
    replaced += [c.replaced for _, c in history.moved if c.replaced]
    deleted = [head for _, head in history.deleted]
    assert once((head.file_id, head.version) for head in replaced + deleted), "two winners"
    restored = [head for _, head in history.restored]
    assert once((head.file_id, head.version) for head in restored), "restored twice"
    newest: dict[str, int] = {}
    for head in restored:
        newest[head.file_id] = max(head.version, newest.get(head.file_id, 0))
    for head in replaced + deleted:
        record = records[head.file_id]
        assert record is not None, head
        if newest.get(head.file_id, 0) < head.version:
            assert record.state in (FileState.TRASHED, FileState.DELETING), (head, record)
            assert (record.path, record.version) == (head.path, head.version)
    for head in restored:
        record = records[head.file_id]
        assert record is not None and record.version >= head.version, (head, record)
    for _, head in history.purged:
        record = records[head.file_id]
        assert record is not None and record.state is FileState.DELETING, (head, record)
        assert (record.path, record.version) == (head.path, head.version), "purged, and there again"
    for committed in history.committed:
        if committed.replaced is not None:
            assert committed.replaced.version < committed.head.version
