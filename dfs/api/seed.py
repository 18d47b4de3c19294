"""The seed protocol: uploads and downloads planned by the server, chunk by chunk through it.

The order of an upload: `init_upload` (the record, `uploading`), `chunks.upload_chunk` (bytes durable
on the nodes, then their rows), `finalize_upload` (all rows there: commit).
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

from dfs.api.answers import described, etag_header, streamed_list
from dfs.api.conditions import write_condition
from dfs.api.names import check_content_type, check_filename, cut_utf8, upload_path
from dfs.api.plan import DownloadPlan, base_url, upload_targets
from dfs.api.requests import file_id_of, operation_id, optional_text, whole_number
from dfs.api.rows import add_rows
from dfs.api.service import Service
from dfs.api.sizes import check_chunk_size, check_chunks
from dfs.api.tally import Tally, count_copies
from dfs.errors import (
    BadRequest,
    ConditionFailed,
    Gone,
    NotFinalized,
    NotFound,
)
from dfs.metadata.operations import begin_upload, commit_file, find_commit
from dfs.metadata.steps import PutShort
from dfs.model import (
    DEFAULT_BUCKET,
    MAX_PATH_BYTES,
    UPLOADS_BUCKET,
    FileRecord,
    FileState,
    check_path,
    is_file_id,
    new_file_id,
    parse_file_id,
)
from dfs.wire.message import Request, Response, parse_json_object

SEED_CHUNK_SIZE = 1024
JSON_LIMIT = 64 * 1024
EMPTY_SHA256 = hashlib.sha256().hexdigest()


# --- init-upload -------------------------------------------------------------------------------------


def init_upload(service: Service, request: Request) -> Response:
    """Begin an upload; answers with where to send every chunk, streamed."""
    fields = parse_json_object(request.body.read_all(JSON_LIMIT))
    record = _new_record(service, request, fields)
    view = service.replicator.check_nodes()
    asked, record = record, begin_upload(service.store, record)
    if record.size != asked.size:
        raise ConditionFailed(f"id {record.file_id} belongs to an upload of another file")
    service.shapes.remember(record)
    base = base_url(service.settings.public_url, request, service.settings.api_bind)
    nodes = service.placement.firsts(record.file_id, record.chunk_count, view)
    before = f'{{"file_id":"{record.file_id}","chunk_size":{record.chunk_size},"upload_targets":['
    body = streamed_list(upload_targets(base, record.file_id, nodes), before, "]}")
    return Response(200, [("Content-Type", "application/json")], body)


def _new_record(service: Service, request: Request, fields: dict[str, Any]) -> FileRecord:
    settings = service.settings
    filename = check_filename(fields.get("filename"))
    size = whole_number(fields, "size")
    if size is None or size < 0:
        raise BadRequest("size must be a whole number of bytes, 0 or more")
    chunk_size = whole_number(fields, "chunk_size")
    if chunk_size is None or chunk_size <= 0:
        chunk_size = SEED_CHUNK_SIZE
    check_chunk_size(chunk_size, settings.max_chunk_size, "chunk_size")
    chunks = check_chunks(size, chunk_size, settings.max_chunks_per_file, settings.max_chunk_size)
    op_id = _operation(request, fields)
    file_id = op_id or new_file_id()
    path = optional_text(fields, "path")
    bucket = optional_text(fields, "bucket") or (UPLOADS_BUCKET if path is None else DEFAULT_BUCKET)
    now = service.now()
    return FileRecord(
        file_id=file_id,
        state=FileState.UPLOADING,
        bucket=service.buckets.require(bucket),
        path=upload_path(file_id, filename) if path is None else check_path(path),
        size=size,
        chunk_size=chunk_size,
        chunk_count=chunks,
        content_type=check_content_type(optional_text(fields, "content_type")),
        sha256=None,
        filename=cut_utf8(filename, MAX_PATH_BYTES),
        version=0,
        created_at=now,
        touched_at=now,
    )


def _operation(request: Request, fields: dict[str, Any]) -> str | None:
    in_body, in_head = optional_text(fields, "op_id"), operation_id(request)
    if in_body is None:
        return in_head
    if not is_file_id(in_body):
        raise BadRequest("op_id must be a version 4 UUID")
    if in_head is not None and in_head != in_body.lower():
        raise BadRequest("op_id and the X-Dfs-Op header name different operations")
    return in_body.lower()


# --- finalize-upload -------------------------------------------------------------------------------------


def finalize_upload(service: Service, request: Request) -> Response:
    """Make a complete upload visible at its path. Repeating it is answered like the first time."""
    fields = parse_json_object(request.body.read_all(JSON_LIMIT))
    text = optional_text(fields, "file_id")
    if text is None:
        raise BadRequest("file_id is missing")
    file_id = parse_file_id(text)
    condition = write_condition(request.headers)
    record = service.store.get_file(file_id)
    if record is None:
        raise NotFound(f"there is no upload {file_id}")
    committed = find_commit(service.store, record)
    if committed is None:
        if record.chunk_count == 0:
            _store_empty(service, record)
        tally = _tally(service, record)
        tally.check(service.required_copies)
        whole = tally.first_checksum if record.chunk_count <= 1 else None
        committed = commit_file(service.store, replace(record, sha256=whole), condition, service.now())
        copies = tally.fewest()
    else:
        copies = len({row.node_id for row in service.store.replicas(file_id, 0, 0)})
    if not committed.repeated:
        service.notes.committed(committed.head, op_id=file_id)
    return Response.json(200, described(committed.head, copies), [etag_header(committed.head)])


def _tally(service: Service, record: FileRecord) -> Tally:
    rows = service.store.replicas(record.file_id)
    return count_copies(rows, record.size, record.chunk_size, record.chunk_count)


def _store_empty(service: Service, record: FileRecord) -> None:
    """An empty file is one record of no bytes on its nodes, so that the nodes alone can tell of it."""
    now = service.now()
    written = service.replicator.write(
        record.file_id,
        0,
        b"",
        checksum=EMPTY_SHA256,
        chunk_size=record.chunk_size,
        file_size=0,
        now_ms=now,
    )
    short = [PutShort(record.file_id, 0, now)] if written.short else []
    add_rows(service.store, record.file_id, written.replicas, short)
    if written.pending is not None:
        written.pending()


# --- downloads ---------------------------------------------------------------------------------------------


def download_plan(service: Service, request: Request) -> Response:
    """Where to fetch every chunk of a finished file, streamed; never with a chunk left out."""
    file_id = file_id_of(request)
    record = service.store.get_file(file_id)
    if record is None:
        raise NotFound(f"there is no file {file_id}")
    if record.state is FileState.UPLOADING:
        raise NotFinalized(f"the upload {file_id} is not finalized")
    if record.state is FileState.DELETING:
        raise Gone(f"the file {file_id} was deleted")
    if record.state is FileState.TRASHED:
        raise NotFound(f"the file {file_id} is in the trash")
    plan = DownloadPlan(record, service.store.replicas(file_id), service.membership.view())
    base = base_url(service.settings.public_url, request, service.settings.api_bind)
    return Response(200, [("Content-Type", "application/json")], streamed_list(plan.entries(base)))
