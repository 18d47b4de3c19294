"""The client: a library (`from dfs.client import Client`) and a command line (`python -m dfs.client`)."""

from dfs.client.client import Client
from dfs.client.failures import LocalConflict, LocalFailure, Replaced, Unreachable, VerifyFailed
from dfs.client.results import (
    BucketView,
    DeletedFile,
    DeletedPage,
    NodeView,
    Page,
    Prefix,
    StoredFile,
    Uploaded,
    UploadStatus,
)
from dfs.client.retry import RetryPolicy

__all__ = [
    "BucketView",
    "Client",
    "DeletedFile",
    "DeletedPage",
    "LocalConflict",
    "LocalFailure",
    "NodeView",
    "Page",
    "Prefix",
    "Replaced",
    "RetryPolicy",
    "StoredFile",
    "Unreachable",
    "UploadStatus",
    "Uploaded",
    "VerifyFailed",
]
