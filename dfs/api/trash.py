"""The trash as clients and operators see it."""

from __future__ import annotations

from dfs import logs
from dfs.api.answers import discarded
from dfs.api.requests import bucket_of, flag_of
from dfs.api.service import Service
from dfs.errors import BadRequest
from dfs.metadata.trashlist import trash_page
from dfs.notation import parse_time
from dfs.repair.purge import purge_some
from dfs.repair.retention import Retention
from dfs.settings import ApiSettings
from dfs.wire.message import Request, Response

_END_OF_TIME = 1 << 62


def retention_of(settings: ApiSettings) -> Retention:
    """How long a server with these settings keeps files in the trash."""
    return Retention(round(settings.trash_retention * 1000), round(settings.replaced_retention * 1000))


def list_trash(service: Service, request: Request, limit: int) -> Response:
    """One page of the trash of a bucket."""
    bucket = bucket_of(service.buckets, request)
    page = trash_page(
        service.store,
        bucket,
        prefix=request.query.get("prefix") or "",
        limit=limit,
        cursor=request.query.get("cursor") or None,
        fetch=service.chunk_calls.map,
    )
    kept = retention_of(service.settings)
    files = [discarded(record, kept.of(record.retired)) for record in page.records]
    return Response.json(200, {"bucket": bucket, "files": files, "cursor": page.cursor})


def purge_trash(service: Service, request: Request) -> Response:
    """One step of emptying the trash (of all buckets unless one is named), or with `plan=1` of counting it."""
    query = request.query
    bucket = bucket_of(service.buckets, request) if query.get("bucket") is not None else None
    plan = flag_of(request, "plan")
    now = service.now()
    purged = purge_some(
        service.store,
        bucket=bucket,
        before=_before(query.get("older_than"), now),
        plan=plan,
        cursor=query.get("cursor") or None,
        now_ms=now,
    )
    if purged.amount.files and not plan:
        logs.event("trash.purged_by_order", bucket=bucket, files=purged.amount.files, bytes=purged.amount.bytes)
    said = {"plan": plan, "bucket": bucket, "files": purged.amount.files, "bytes": purged.amount.bytes}
    return Response.json(200, said | {"oldest_at": purged.oldest_at, "cursor": purged.cursor})


def _before(older_than: str | None, now_ms: int) -> int:
    """Without an age everything goes, also what came by a clock that is ahead of this one."""
    if older_than is None:
        return _END_OF_TIME
    try:
        return now_ms - round(parse_time(older_than) * 1000)
    except ValueError as error:
        raise BadRequest(f"older_than must be {error}") from None
