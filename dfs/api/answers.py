"""The JSON and the headers by which a file is described to clients: pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

from dfs.api.conditions import etag, http_date
from dfs.model import FileRecord, Head, Retired

_PIECE = 32 * 1024


def listed(head: Head) -> dict[str, Any]:
    """A file as it stands in a listing."""
    return {
        "path": head.path,
        "file_id": head.file_id,
        "size": head.size,
        "etag": etag(head.file_id),
        "sha256": head.sha256,
        "content_type": head.content_type,
        "modified": head.modified,
    }


def discarded(record: FileRecord, kept_ms: int) -> dict[str, Any]:
    """A file as it stands in a listing of the trash, where files stay for `kept_ms`."""
    return {
        "path": record.path,
        "file_id": record.file_id,
        "size": record.size,
        "sha256": record.sha256,
        "content_type": record.content_type,
        "modified": record.modified,
        "deleted_at": record.touched_at,
        "retired": record.retired or Retired.DELETED.value,
        "expires_at": record.touched_at + kept_ms,
    }


def described(head: Head, replicas: int | None = None) -> dict[str, Any]:
    """A file as its upload or move is answered. `replicas`: copies that its chunks have at least."""
    answer: dict[str, Any] = {"bucket": head.bucket} | listed(head)
    answer |= {"chunk_size": head.chunk_size, "chunks": head.chunk_count}
    if replicas is not None:
        answer["replicas"] = replicas
    return answer


def etag_header(head: Head) -> tuple[str, str]:
    return ("ETag", etag(head.file_id))


def file_headers(file_id: str, modified: int, sha256: str | None) -> list[tuple[str, str]]:
    """Headers of every answer that shows the file or says that it has not changed.

    What people stored is never interpreted in this origin's name: no sniffing, no scripts.
    """
    headers = [
        ("ETag", etag(file_id)),
        ("Last-Modified", http_date(modified)),
        ("Accept-Ranges", "bytes"),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "sandbox"),
    ]
    if sha256 is not None:
        headers.append(("X-File-SHA256", sha256))
    return headers


def streamed_list(items: Iterable[str], before: str = "[", after: str = "]") -> Iterator[bytes]:
    """`before`, the JSON texts `items` joined by commas, `after`, in pieces of about 32 KiB."""
    pieces: list[str] = [before]
    held = len(before)
    first = True
    for item in items:
        text = item if first else "," + item
        first = False
        pieces.append(text)
        held += len(text)
        if held >= _PIECE:
            yield "".join(pieces).encode()
            pieces.clear()
            held = 0
    pieces.append(after)
    yield "".join(pieces).encode()


def compact(value: object) -> str:
    """`value` as JSON on one line."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=True)
