"""The library's calls that move no content: paths, the trash, what the cluster has."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from dfs.client import results
from dfs.client.content import conditions
from dfs.client.failures import LocalFailure
from dfs.client.results import (
    BucketView,
    DeletedFile,
    DeletedPage,
    NodeView,
    Page,
    Prefix,
    StoredFile,
    UploadStatus,
)
from dfs.client.session import Call, Session
from dfs.client.transport import file_target, target
from dfs.errors import BadPath
from dfs.model import check_bucket, check_path, new_file_id, parse_file_id


class Catalog:
    """Part of `Client`, which see."""

    def __init__(self, session: Session, bucket: str) -> None:
        self._session = session
        self._bucket = bucket

    # Paths

    def list(
        self, prefix: str = "", *, bucket: str | None = None, delimiter: str | None = None
    ) -> Iterator[StoredFile | Prefix]:
        """All files whose path begins with `prefix`, in byte order, page by page.

        With `delimiter` ("/") paths that go on after it are shown as one `Prefix` each.
        """
        cursor = None
        while True:
            page = self.list_page(prefix, bucket=bucket, delimiter=delimiter, cursor=cursor)
            yield from page.entries()
            if page.cursor is None:
                return
            if page.cursor == cursor:
                raise LocalFailure("the server's listing does not go on: it names the same place twice")
            cursor = page.cursor

    def list_page(
        self,
        prefix: str = "",
        *,
        bucket: str | None = None,
        delimiter: str | None = None,
        limit: int | None = None,
        cursor: str | None = None,
    ) -> Page:
        """One page of `list`; its `cursor` asks for the next."""
        where = self._bucket_of(bucket)
        wanted = target(
            "/files",
            bucket=where,
            prefix=_utf8(prefix) or None,
            delimiter=delimiter or None,
            limit=limit,
            cursor=cursor,
        )
        return results.page(self._session.json(Call("GET", wanted, where)), where)

    def delete(
        self,
        path: str,
        *,
        bucket: str | None = None,
        purge: bool = False,
        file_id: str | None = None,
        if_match: str | None = None,
        op_id: str | None = None,
    ) -> None:
        """Delete the file at `path`, to the trash or (`purge`) for good; or with `file_id` (and `purge`) the
        file of that id in the trash, which left `path`. Raises NotFound."""
        wanted = file_target(
            check_path(path),
            bucket=self._bucket_of(bucket),
            purge="1" if purge else None,
            file_id=parse_file_id(file_id) if file_id else None,
        )
        headers = (_operation(op_id), *conditions(if_match, None))
        self._session.json(Call("DELETE", wanted, path, headers=headers, writes=True))

    def move(
        self,
        source: str,
        path: str,
        *,
        bucket: str | None = None,
        overwrite: bool = False,
        if_match: str | None = None,
        op_id: str | None = None,
    ) -> StoredFile:
        """Rename atomically within a bucket. ConditionFailed when `path` exists and not `overwrite`."""
        where = self._bucket_of(bucket)
        wanted = file_target(
            check_path(source), bucket=where, move_to=check_path(path), overwrite="1" if overwrite else None
        )
        headers = (_operation(op_id), *conditions(if_match, None))
        return results.stored_file(
            self._session.json(Call("POST", wanted, source, headers=headers, writes=True)), where
        )

    # The trash

    def list_deleted(self, prefix: str = "", *, bucket: str | None = None) -> Iterator[DeletedFile]:
        """The files in the trash whose path begins with `prefix`, by path, of one path the oldest first.

        What was deleted a moment ago may be missing still.
        """
        cursor = None
        while True:
            page = self.list_deleted_page(prefix, bucket=bucket, cursor=cursor)
            yield from page.files
            if page.cursor is None:
                return
            if page.cursor == cursor:
                raise LocalFailure("the server's listing does not go on: it names the same place twice")
            cursor = page.cursor

    def list_deleted_page(
        self, prefix: str = "", *, bucket: str | None = None, limit: int | None = None, cursor: str | None = None
    ) -> DeletedPage:
        """One page of `list_deleted`; its `cursor` asks for the next."""
        where = self._bucket_of(bucket)
        wanted = target(
            "/files", bucket=where, deleted="1", prefix=_utf8(prefix) or None, limit=limit, cursor=cursor
        )
        return results.deleted_page(self._session.json(Call("GET", wanted, where)), where)

    def restore(
        self,
        path: str,
        *,
        file_id: str | None = None,
        to: str | None = None,
        bucket: str | None = None,
        op_id: str | None = None,
    ) -> StoredFile:
        """Bring a file back that left `path` for the trash: the last one, or the one of `file_id`.

        To `path`, or to the path `to`: ConditionFailed when that shows a file. NotFound when the trash does
        not hold it (any more).
        """
        where = self._bucket_of(bucket)
        wanted = file_target(
            check_path(path),
            bucket=where,
            restore=parse_file_id(file_id) if file_id else "latest",
            to=check_path(to) if to is not None else None,
        )
        call = Call("POST", wanted, path, headers=(_operation(op_id),), writes=True)
        return results.stored_file(self._session.json(call), where)

    def upload_status(self, file_id: str) -> UploadStatus:
        """The state of a file by its id: chunk size, chunks, what is missing. Raises NotFound."""
        wanted = target(f"/uploads/{parse_file_id(file_id)}")
        return results.upload_status(self._session.json(Call("GET", wanted, file_id)))

    # Cluster

    def nodes(self) -> tuple[NodeView, ...]:
        """The storage nodes."""
        fields = results.members(self._session.json(Call("GET", "/nodes", "the nodes")), "the list of nodes")
        return tuple(results.node_view(item) for item in results.need(fields, "nodes", list))

    def buckets(self) -> tuple[BucketView, ...]:
        """The buckets."""
        fields = results.members(self._session.json(Call("GET", "/buckets", "the buckets")), "the list of buckets")
        return tuple(results.bucket_view(item) for item in results.need(fields, "buckets", list))

    def create_bucket(self, name: str) -> None:
        """Make a bucket; one that exists is left as it is."""
        wanted = "/buckets/" + quote(check_bucket(name), safe="")
        self._session.json(Call("PUT", wanted, name, writes=True))

    def _bucket_of(self, bucket: str | None) -> str:
        return self._bucket if bucket is None else check_bucket(bucket)


def _operation(op_id: str | None) -> tuple[str, str]:
    return "X-Dfs-Op", parse_file_id(op_id) if op_id else new_file_id()


def _utf8(prefix: str) -> str:
    try:
        prefix.encode()
    except UnicodeEncodeError:
        raise BadPath("a prefix must be valid UTF-8") from None
    return prefix
