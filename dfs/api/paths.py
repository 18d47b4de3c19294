"""What happens to paths without content: DELETE and POST of `/files/{path}`."""

from __future__ import annotations

from dfs.api.answers import described, etag_header
from dfs.api.conditions import write_condition
from dfs.api.requests import bucket_of, flag_of, operation_id
from dfs.api.service import Service
from dfs.errors import BadRequest
from dfs.metadata.operations import (
    ALWAYS,
    LATEST,
    Precondition,
    delete_path,
    move_path,
    purge_trashed,
    restore_path,
)
from dfs.model import check_path, parse_file_id
from dfs.wire.message import Request, Response


def delete_file(service: Service, request: Request) -> Response:
    """Take the file off its path, to the trash or with `purge=1` for good; or, with `file_id` too, a file in
    the trash that left this path."""
    path = check_path(request.params["path"])
    purge = flag_of(request, "purge")
    named = request.query.get("file_id")
    condition = write_condition(request.headers)
    op_id = operation_id(request)
    bucket = bucket_of(service.buckets, request)
    now = service.now()
    if named is None:
        head = delete_path(service.store, bucket, path, condition, now, purge=purge, op_id=op_id)
    else:
        file_id = _named(named, purge, condition)
        head = purge_trashed(service.store, bucket, path, file_id, now, op_id=op_id)
    service.notes.deleted(head, op_id=op_id, purged=purge)
    return Response.empty(204)


def _named(file_id: str, purge: bool, condition: Precondition) -> str:
    """The file in the trash that a DELETE names. Raises BadRequest."""
    if not purge:
        raise BadRequest("file_id names a file in the trash, which can only be deleted for good: add purge=1")
    if condition != ALWAYS:
        raise BadRequest("file_id names the file already; conditions are on what the path shows, which is left alone")
    return parse_file_id(file_id)


def change_path(service: Service, request: Request) -> Response:
    """Move the file (`move_to`), or bring one back from the trash (`restore`)."""
    path = check_path(request.params["path"])
    target, which = request.query.get("move_to"), request.query.get("restore")
    if (target is None) == (which is None):
        raise BadRequest("POST to a path needs one of the query parameters move_to and restore")
    return _restore(service, request, path, which) if target is None else _move(service, request, path, target)


def _move(service: Service, request: Request, source: str, target: str) -> Response:
    check_path(target)
    overwrite = flag_of(request, "overwrite")
    condition = write_condition(request.headers)
    op_id = operation_id(request)
    bucket = bucket_of(service.buckets, request)
    moved = move_path(
        service.store, bucket, source, target, condition, service.now(), overwrite=overwrite, op_id=op_id
    )
    service.notes.moved(moved.head, op_id=op_id)
    return Response.json(200, described(moved.head), [etag_header(moved.head)])


def _restore(service: Service, request: Request, path: str, which: str | None) -> Response:
    wanted = LATEST if which == LATEST else parse_file_id(which or "")
    to = request.query.get("to")
    if to is not None:
        check_path(to)
    write_condition(request.headers).check(None)  # a path that shows a file is refused in any case
    op_id = operation_id(request)
    bucket = bucket_of(service.buckets, request)
    head = restore_path(service.store, bucket, path, wanted, service.now(), to=to, op_id=op_id)
    service.notes.restored(head, op_id=op_id)
    return Response.json(200, described(head), [etag_header(head)])
