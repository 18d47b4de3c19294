"""Buckets and listings."""

from __future__ import annotations

from dfs.api.answers import listed
from dfs.api.requests import bucket_of, flag_of, number_of
from dfs.api.service import Service
from dfs.api.trash import list_trash
from dfs.errors import BadRequest
from dfs.metadata.listing import MAX_PAGE, list_page
from dfs.model import Bucket, check_bucket
from dfs.wire.message import Request, Response

_LONGEST_DELIMITER = 64


def list_files(service: Service, request: Request) -> Response:
    """One page of a bucket's paths in byte order, or with `deleted=1` of its trash."""
    query = request.query
    limit = number_of(request, "limit", MAX_PAGE, 1, MAX_PAGE)
    delimiter = query.get("delimiter") or ""
    if len(delimiter) > _LONGEST_DELIMITER:
        raise BadRequest(f"the delimiter has at most {_LONGEST_DELIMITER} characters")
    if flag_of(request, "deleted"):
        if delimiter:
            raise BadRequest("the trash is listed without a delimiter")
        return list_trash(service, request, limit)
    bucket = bucket_of(service.buckets, request)
    page = list_page(
        service.store,
        bucket,
        prefix=query.get("prefix") or "",
        delimiter=delimiter,
        limit=limit,
        cursor=query.get("cursor") or None,
    )
    return Response.json(
        200,
        {
            "bucket": bucket,
            "files": [listed(head) for head in page.heads],
            "prefixes": page.prefixes,
            "cursor": page.cursor,
        },
    )


def make_bucket(service: Service, request: Request) -> Response:
    """Create a bucket: 201, or 200 when it existed."""
    name = check_bucket(request.params["name"])
    now = service.now()
    created = service.store.put_bucket(Bucket(name, now))
    return Response.json(201 if created else 200, {"name": name})


def list_buckets(service: Service, request: Request) -> Response:
    """All buckets by name."""
    buckets = [{"name": each.name, "created": each.created_at} for each in service.store.list_buckets()]
    return Response.json(200, {"buckets": buckets})
