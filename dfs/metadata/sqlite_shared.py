"""What operators and background work share through SQLite: documents, and the states of nodes."""

from __future__ import annotations

import json
import sqlite3
from typing import Any

from dfs.metadata.contract import document_text
from dfs.model import AdminState, Document, NodeInfo

_READ = "SELECT version, value FROM documents WHERE name = ?"
_PUT = "INSERT OR REPLACE INTO documents (name, version, value) VALUES (?, ?, ?)"


def read_document(db: sqlite3.Connection, name: str) -> Document | None:
    """The document, as it stands in the caller's transaction."""
    row = db.execute(_READ, (name,)).fetchone()
    return None if row is None else Document(name, row[0], json.loads(row[1]))


def put_document(
    db: sqlite3.Connection, name: str, value: dict[str, Any], seen: Document | None
) -> Document | None:
    """See MetadataStore.write_document."""
    current = read_document(db, name)
    if (current and current.version) != (seen and seen.version):
        return None
    new = Document(name, 1 if seen is None else seen.version + 1, value)
    db.execute(_PUT, (name, new.version, document_text(value)))
    return new


def set_admin_state(
    db: sqlite3.Connection,
    seen: NodeInfo,
    state: AdminState,
    at: int,
    until: int,
    guard: Document | None,
    guard_name: str,
) -> bool:
    """See MetadataStore.set_admin_state."""
    current = read_document(db, guard_name)
    if (current and current.version) != (guard and guard.version):
        return False
    cursor = db.execute(
        "UPDATE nodes SET admin_state = ?, admin_at = ?, admin_until = ? "
        "WHERE node_id = ? AND disk_id = ? AND admin_state = ? AND admin_at = ? AND admin_until = ?",
        (
            state.value,
            at,
            until,
            seen.node_id,
            seen.disk_id,
            seen.admin_state.value,
            seen.admin_at,
            seen.admin_until,
        ),
    )
    if cursor.rowcount != 1:
        return False
    value = {} if current is None else current.value
    db.execute(_PUT, (guard_name, 1 if current is None else current.version + 1, document_text(value)))
    return True


def forget_node(db: sqlite3.Connection, seen: NodeInfo) -> bool:
    """See MetadataStore.forget_node."""
    cursor = db.execute(
        "DELETE FROM nodes WHERE node_id = ? AND disk_id = ? AND boot_id = ? AND admin_state = ?",
        (seen.node_id, seen.disk_id, seen.boot_id, AdminState.DECOMMISSIONED.value),
    )
    return cursor.rowcount == 1
