"""What the client's calls return: frozen values read from the servers' JSON and headers.

Members that an older or newer server does not send are None. Times are integer milliseconds since
the epoch, sizes are bytes.
"""

from __future__ import annotations

import datetime
import email.utils
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dfs.client.failures import LocalFailure
from dfs.wire.message import Headers


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as the store shows it. `sha256` is None when it was uploaded in separate chunks."""

    bucket: str
    path: str | None
    file_id: str
    etag: str
    size: int
    sha256: str | None = None
    content_type: str | None = None
    modified: int | None = None
    chunk_size: int | None = None
    chunks: int | None = None
    replicas: int | None = None


@dataclass(frozen=True, slots=True)
class DeletedFile:
    """A file in the trash. `retired` is `deleted` or `replaced`; from `expires_at` on it may go for good."""

    bucket: str
    path: str
    file_id: str
    size: int
    sha256: str | None
    content_type: str | None
    modified: int | None
    deleted_at: int | None
    retired: str | None
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class DeletedPage:
    """A part of a listing of the trash; `cursor` asks for the next one, None at the end."""

    files: tuple[DeletedFile, ...]
    cursor: str | None


@dataclass(frozen=True, slots=True)
class Prefix:
    """In a listing with a delimiter: all paths that begin so, as one entry."""

    prefix: str


@dataclass(frozen=True, slots=True)
class Page:
    """A part of a listing; `cursor` asks for the next one, None at the end."""

    files: tuple[StoredFile, ...]
    prefixes: tuple[Prefix, ...]
    cursor: str | None

    def entries(self) -> Iterator[StoredFile | Prefix]:
        """Files and prefixes in one byte order."""
        both: list[StoredFile | Prefix] = [*self.files, *self.prefixes]
        return iter(sorted(both, key=_order))


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """An upload in separate chunks. `missing` are ranges (first, last), both included."""

    file_id: str
    state: str
    size: int
    chunk_size: int
    chunks: int
    missing: tuple[tuple[int, int], ...]
    bucket: str | None = None
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Uploaded:
    """What the seed protocol's upload stored."""

    file_id: str
    size: int
    chunk_size: int
    chunks: int


@dataclass(frozen=True, slots=True)
class NodeView:
    """A storage node as the API server sees it."""

    node_id: str
    address: str | None
    port: int | None
    zone: str | None
    state: str | None
    alive: bool
    free_bytes: int | None
    used_bytes: int | None
    chunks: int | None
    version: str | None
    last_seen: int | None


@dataclass(frozen=True, slots=True)
class BucketView:
    """A namespace of paths."""

    name: str
    created: int | None


def _order(entry: StoredFile | Prefix) -> bytes:
    return (entry.prefix if isinstance(entry, Prefix) else entry.path or "").encode()


def members(value: object, what: str) -> dict[str, Any]:
    """`value` if it is a JSON object; raises LocalFailure."""
    if not isinstance(value, dict):
        raise LocalFailure(f"the server's answer makes no sense: {what} is not an object")
    return value


def need(value: dict[str, Any], name: str, kind: type[Any]) -> Any:
    """The member `name`, of type `kind`; raises LocalFailure."""
    found = value.get(name)
    if not isinstance(found, kind) or isinstance(found, bool) != (kind is bool):
        raise LocalFailure(f"the server's answer makes no sense: {name} is missing or of the wrong type")
    return found


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def text(value: object) -> str | None:
    """`value` if it is a string, else None."""
    return value if isinstance(value, str) else None


def moment(value: object) -> int | None:
    """Milliseconds from a JSON time (milliseconds or ISO 8601), None when it is neither."""
    if isinstance(value, str):
        try:
            return round(datetime.datetime.fromisoformat(value).timestamp() * 1000)
        except (ValueError, OverflowError):
            return None
    return _number(value)


def stored_file(value: object, bucket: str) -> StoredFile:
    """A file from a put's, move's or listing's JSON; raises LocalFailure."""
    fields = members(value, "the file")
    file_id = need(fields, "file_id", str)
    return StoredFile(
        bucket=text(fields.get("bucket")) or bucket,
        path=text(fields.get("path")),
        file_id=file_id,
        etag=(text(fields.get("etag")) or file_id).strip('"'),
        size=need(fields, "size", int),
        sha256=text(fields.get("sha256")),
        content_type=text(fields.get("content_type")),
        modified=moment(fields.get("modified")),
        chunk_size=_number(fields.get("chunk_size")),
        chunks=_number(fields.get("chunks")),
        replicas=_number(fields.get("replicas")),
    )


def file_from_headers(headers: Headers, size: int, bucket: str, path: str | None) -> StoredFile:
    """A file from the head of a GET or HEAD answer; raises LocalFailure without a strong ETag."""
    etag = headers.get("ETag") or ""
    if len(etag) < 3 or not (etag.startswith('"') and etag.endswith('"')):
        raise LocalFailure("the server's answer has no ETag: is that URL a dfs API server?")
    sha256 = headers.get("X-File-SHA256")
    return StoredFile(
        bucket=bucket,
        path=path,
        file_id=etag[1:-1],
        etag=etag[1:-1],
        size=size,
        sha256=sha256.lower() if sha256 else None,
        content_type=headers.get("Content-Type"),
        modified=_http_date(headers.get("Last-Modified")),
    )


def _http_date(value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return round(email.utils.parsedate_to_datetime(value).timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def page(value: object, bucket: str) -> Page:
    """A page of a listing from its JSON; raises LocalFailure."""
    fields = members(value, "the listing")
    return Page(
        files=tuple(stored_file(item, bucket) for item in need(fields, "files", list)),
        prefixes=tuple(Prefix(str(item)) for item in need(fields, "prefixes", list)),
        cursor=text(fields.get("cursor")),
    )


def deleted_page(value: object, bucket: str) -> DeletedPage:
    """A page of the trash from its JSON; raises LocalFailure."""
    fields = members(value, "the listing")
    files = tuple(_deleted_file(item, bucket) for item in need(fields, "files", list))
    return DeletedPage(files, text(fields.get("cursor")))


def _deleted_file(value: object, bucket: str) -> DeletedFile:
    fields = members(value, "the file")
    return DeletedFile(
        bucket=bucket,
        path=need(fields, "path", str),
        file_id=need(fields, "file_id", str),
        size=need(fields, "size", int),
        sha256=text(fields.get("sha256")),
        content_type=text(fields.get("content_type")),
        modified=moment(fields.get("modified")),
        deleted_at=moment(fields.get("deleted_at")),
        retired=text(fields.get("retired")),
        expires_at=moment(fields.get("expires_at")),
    )


def upload_status(value: object) -> UploadStatus:
    """The state of an upload from its JSON; raises LocalFailure."""
    fields = members(value, "the upload")
    chunks = need(fields, "chunks", int)
    ranges = []
    for item in need(fields, "missing", list):
        match item:
            case [int(first), int(last)] if 0 <= first <= last < chunks:
                ranges.append((first, last))
            case _:
                raise LocalFailure("the server's answer makes no sense: missing has a wrong range")
    return UploadStatus(
        file_id=need(fields, "file_id", str),
        state=need(fields, "state", str),
        size=need(fields, "size", int),
        chunk_size=need(fields, "chunk_size", int),
        chunks=chunks,
        missing=tuple(ranges),
        bucket=text(fields.get("bucket")),
        path=text(fields.get("path")),
    )


def node_view(value: object) -> NodeView:
    """A node from its JSON; raises LocalFailure."""
    fields = members(value, "the node")
    return NodeView(
        node_id=need(fields, "node_id", str),
        address=text(fields.get("address")),
        port=_number(fields.get("port")),
        zone=text(fields.get("zone")),
        state=text(fields.get("state")),
        alive=fields.get("alive") is True,
        free_bytes=_number(fields.get("free_bytes")),
        used_bytes=_number(fields.get("used_bytes")),
        chunks=_number(fields.get("chunks")),
        version=text(fields.get("version")),
        last_seen=moment(fields.get("last_seen")),
    )


def bucket_view(value: object) -> BucketView:
    """A bucket from its JSON, an object or just its name; raises LocalFailure."""
    if isinstance(value, str):
        return BucketView(value, None)
    fields = members(value, "the bucket")
    created = fields.get("created", fields.get("created_at"))
    return BucketView(need(fields, "name", str), moment(created))
