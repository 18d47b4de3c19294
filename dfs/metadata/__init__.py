"""Metadata: which files exist, under which paths, and where their chunks are.

`contract` says what a backend does, `sqlite` and `dynamo` do it, `operations` holds the rules of
files once for both.
"""

from __future__ import annotations

from dfs.metadata.contract import MetadataStore
from dfs.settings import CommonSettings

_SQLITE = "sqlite:///"


def open_metadata(settings: CommonSettings) -> MetadataStore:
    """The store that `DFS_METADATA_URL` names; connects only when first used, so it may be made
    before a fork. Raises errors.StartError when DynamoDB is asked for and boto3 is missing."""
    if settings.metadata_url.startswith(_SQLITE):
        from dfs.metadata.sqlite import SqliteStore

        return SqliteStore(settings.metadata_url.removeprefix(_SQLITE))
    from dfs.metadata.dynamo import open_dynamo

    return open_dynamo(settings)
