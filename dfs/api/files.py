"""The files interface: PUT, GET and HEAD of `/files/{path}`, GET of `/content/{file_id}`."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass

from dfs.api.answers import described, etag_header
from dfs.api.conditions import write_condition
from dfs.api.content import send_file
from dfs.api.names import check_content_type
from dfs.api.requests import bucket_of, expects_continue, file_id_of_path, operation_id
from dfs.api.service import Service
from dfs.api.sizes import check_chunk_size, check_chunks
from dfs.api.write import FileWriter
from dfs.errors import BadRequest, ChecksumMismatch, ConditionFailed, LengthRequired, NotFound
from dfs.metadata.operations import (
    ALWAYS,
    Committed,
    Precondition,
    discard_upload,
    find_commit,
    head_of,
)
from dfs.metadata.preconditions import failed
from dfs.model import (
    DEFAULT_BUCKET,
    FileRecord,
    FileState,
    Head,
    check_bucket,
    check_path,
    chunk_count,
    new_file_id,
    parse_sha256,
)
from dfs.wire.message import Request, Response

_DIGITS = re.compile(r"[0-9]{1,18}\Z")
_READ = 64 * 1024


@dataclass(frozen=True, slots=True)
class _Order:
    """What a PUT asks for."""

    bucket: str
    path: str
    op_id: str | None
    chunk_size: int | None
    content_type: str
    sha256: str | None
    condition: Precondition


# --- PUT -------------------------------------------------------------------------------------------


def put_file(service: Service, request: Request) -> Response:
    """Store a file of any size; it is visible, whole, when this answers 201, and not before.

    Everything that can be refused is refused before the body is asked for.
    """
    order = _order(service, request)
    length = request.body.length
    record, begun = _record(service, order, length)
    earlier = find_commit(service.store, record) if begun else None
    if earlier is None and order.condition != ALWAYS:
        head = service.store.get_head(order.bucket, order.path)
        if not order.condition.holds(head):
            earlier = _refuse(service, record, failed(head), known=order.op_id is not None)
    if earlier is not None:
        return _repeated(service, request, earlier.head)
    if length is not None:
        _check_chunks(service, length, record.chunk_size)
    service.replicator.check_nodes()
    with FileWriter(
        service, record, length=length, begun=begun, resumable=order.op_id is not None
    ) as writer:
        content = writer.receive(request.body)
        if order.sha256 is not None and content.sha256 != order.sha256:
            raise ChecksumMismatch(f"the file received has SHA-256 {content.sha256}, not the X-File-SHA256 declared")
        committed = writer.commit(content, order.condition)
    service.notes.committed(committed.head, op_id=record.file_id, nodes=writer.first_nodes)
    return _created(committed.head, content.fewest_copies)


def _order(service: Service, request: Request) -> _Order:
    headers = request.headers
    if "Content-Range" in headers:
        raise BadRequest("a file is stored whole; a PUT with Content-Range is not supported")
    if request.body.length is not None and "Content-Length" not in headers:
        # HTTP calls that an empty body; more often it is a client that forgot to say how much comes.
        raise LengthRequired("a PUT needs Content-Length or Transfer-Encoding: chunked")
    path = check_path(request.params["path"])
    chunk_size = headers.get("X-Chunk-Size")
    if chunk_size is not None and not _DIGITS.match(chunk_size):
        raise BadRequest(f"X-Chunk-Size must be a whole number of bytes, not {chunk_size[:40]!r}")
    sha256 = headers.get("X-File-SHA256")
    return _Order(
        bucket=bucket_of(service.buckets, request),
        path=path,
        op_id=operation_id(request),
        chunk_size=None
        if chunk_size is None
        else check_chunk_size(int(chunk_size), service.settings.max_chunk_size, "X-Chunk-Size"),
        content_type=check_content_type(headers.get("Content-Type")),
        sha256=None if sha256 is None else parse_sha256(sha256, "X-File-SHA256"),
        condition=write_condition(headers),
    )


def _record(service: Service, order: _Order, length: int | None) -> tuple[FileRecord, bool]:
    """What the file is to be, and whether an earlier attempt has left a record of it."""
    now = service.now()
    stored = service.store.get_file(order.op_id) if order.op_id is not None else None
    chunk_size = order.chunk_size
    if chunk_size is None:
        chunk_size = service.settings.chunk_size if stored is None else stored.chunk_size
    size = length if length is not None else 0 if stored is None else stored.size
    record = FileRecord(
        file_id=order.op_id or new_file_id(),
        state=FileState.UPLOADING,
        bucket=order.bucket,
        path=order.path,
        size=size,
        chunk_size=chunk_size,
        chunk_count=chunk_count(size, chunk_size),
        content_type=order.content_type,
        sha256=order.sha256,
        filename=order.path.rpartition("/")[2],
        version=0,
        created_at=now if stored is None else stored.created_at,
        touched_at=now if stored is None else stored.touched_at,
    )
    return record, stored is not None


def _refuse(service: Service, record: FileRecord, refusal: ConditionFailed, *, known: bool) -> Committed | None:
    """Raise `refusal`. An earlier attempt under an id the client knows may still be under way: it is
    stopped first, so that what is refused here cannot happen later; if it has just succeeded
    instead, that is returned."""
    if not known or discard_upload(service.store, record, service.now(), reason=refusal.message):
        raise refusal
    return find_commit(service.store, record)


def _check_chunks(service: Service, length: int, chunk_size: int) -> None:
    settings = service.settings
    check_chunks(length, chunk_size, settings.max_chunks_per_file, settings.max_chunk_size)


def _repeated(service: Service, request: Request, head: Head) -> Response:
    """Answer a repeat of an upload that succeeded as it was answered then.

    The body that comes along anyway is read (a client still sending would not see the answer) and
    must be the same: an id used twice for two contents must not lose the second without a word.
    """
    if not expects_continue(request):
        digest = hashlib.sha256()
        size = 0
        piece = memoryview(bytearray(_READ))
        while count := request.body.readinto(piece):
            digest.update(piece[:count])
            size += count
        if size != head.size or digest.hexdigest() != head.sha256:
            raise ConditionFailed(f"id {head.file_id} belongs to an upload of other content")
    copies = len({row.node_id for row in service.store.replicas(head.file_id, 0, 0)})
    return _created(head, copies)


def _created(head: Head, copies: int) -> Response:
    return Response.json(201, described(head, copies), [etag_header(head)])


# --- GET -------------------------------------------------------------------------------------------


def get_file(service: Service, request: Request) -> Response:
    """The file that the path shows now."""
    path = check_path(request.params["path"])
    named = request.query.get("bucket")
    bucket = DEFAULT_BUCKET if named is None else check_bucket(named)

    def find() -> Head:
        head = service.store.get_head(bucket, path)
        if head is None:
            service.buckets.require(bucket)
            raise NotFound(f"there is no file at {path!r}")
        return head

    return send_file(service, request, find)


def get_content(service: Service, request: Request) -> Response:
    """A committed file by its id, whatever its path is now. A trashed one is not shown."""
    file_id = file_id_of_path(request)

    def find() -> Head:
        record = service.store.get_file(file_id)
        if record is None or record.state is not FileState.COMMITTED:
            raise NotFound(f"there is no file {file_id}")
        return head_of(record)

    return send_file(service, request, find)
