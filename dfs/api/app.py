"""The table of endpoints (PROTOCOL.md describes each; a test holds the two against each other)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from dfs.api.admin import change_node, rebalance, repair_now
from dfs.api.audit import EXTRAS_LIMIT, begin_audit, cancel_audit, set_extras_aside, show_audit
from dfs.api.chunks import download_chunk, upload_chunk
from dfs.api.files import get_content, get_file, put_file
from dfs.api.health import healthz, list_nodes, readyz
from dfs.api.metrics import metrics
from dfs.api.namespace import list_buckets, list_files, make_bucket
from dfs.api.paths import change_path, delete_file
from dfs.api.seed import JSON_LIMIT, download_plan, finalize_upload, init_upload
from dfs.api.service import Service
from dfs.api.status import status
from dfs.api.trash import purge_trash
from dfs.api.uploads import abort_upload, show_upload
from dfs.wire.message import Request, Response
from dfs.wire.route import Route

_STREAMED = None
_TABLE: tuple[tuple[str, str, Callable[[Service, Request], Response], int | None], ...] = (
    ("POST", "/init-upload", init_upload, JSON_LIMIT),
    ("PUT", "/proxy-chunk-upload", upload_chunk, _STREAMED),
    ("POST", "/proxy-chunk-upload", upload_chunk, _STREAMED),
    ("POST", "/finalize-upload", finalize_upload, JSON_LIMIT),
    ("GET", "/download-plan", download_plan, 0),
    ("GET", "/proxy-chunk-download", download_chunk, 0),
    ("GET", "/files", list_files, 0),
    ("PUT", "/files/{path+}", put_file, _STREAMED),
    ("GET", "/files/{path+}", get_file, 0),
    ("DELETE", "/files/{path+}", delete_file, 0),
    ("POST", "/files/{path+}", change_path, 0),
    ("GET", "/content/{file_id}", get_content, 0),
    ("GET", "/uploads/{file_id}", show_upload, 0),
    ("DELETE", "/uploads/{file_id}", abort_upload, 0),
    ("GET", "/buckets", list_buckets, 0),
    ("PUT", "/buckets/{name}", make_bucket, 0),
    ("GET", "/nodes", list_nodes, 0),
    ("POST", "/admin/audit", begin_audit, 0),
    ("GET", "/admin/audit", show_audit, 0),
    ("DELETE", "/admin/audit", cancel_audit, 0),
    ("POST", "/admin/audit/set-aside", set_extras_aside, EXTRAS_LIMIT),
    ("GET", "/status", status, 0),
    ("GET", "/metrics", metrics, 0),
    ("POST", "/admin/nodes/{node_id}/{action}", change_node, 0),
    ("POST", "/admin/rebalance", rebalance, 0),
    ("POST", "/admin/repair", repair_now, 0),
    ("POST", "/admin/trash/purge", purge_trash, 0),
    ("GET", "/healthz", healthz, 0),
    ("GET", "/readyz", readyz, 0),
)


def routes(service: Service) -> list[Route]:
    """The endpoints of an API server, bound to its parts."""
    return [
        Route(method, pattern, partial(handler, service), limit, name=handler.__name__)
        for method, pattern, handler, limit in _TABLE
    ]


def endpoints() -> list[tuple[str, str]]:
    """Method and pattern of every endpoint."""
    return [(method, pattern) for method, pattern, _, _ in _TABLE]
