"""A dfs API in memory, behind the client's transport seam, that fails when it is told to."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote

from dfs import errors
from dfs.client import Client, RetryPolicy
from dfs.client.cli import run
from dfs.client.transport import Body
from dfs.errors import DfsError
from dfs.model import chunk_count, new_file_id
from dfs.wire.client import ConnectionLost, TransportError
from dfs.wire.deadline import Deadline
from dfs.wire.message import Headers

FAST = RetryPolicy(base=0.0, cap=0.0)
"""The real number of attempts, without any waiting."""


class FakeAnswer:
    """An answer in memory; the connection breaks after `cut` bytes of the body."""

    def __init__(
        self, status: int, headers: Sequence[tuple[str, str]] = (), body: bytes = b"", *, head: bool = False
    ) -> None:
        self.status = status
        self.headers = Headers([*headers, ("Content-Length", str(len(body)))])
        self.length: int | None = len(body)
        self.cut: int | None = None
        self.closed = False
        self._body = b"" if head else body
        self._at = 0

    def read(self, n: int = -1) -> bytes:
        end = len(self._body) if n < 0 else min(len(self._body), self._at + n)
        if self.cut is not None and end > self.cut:
            raise ConnectionLost("the connection broke within an answer")
        piece = self._body[self._at : end]
        self._at = end
        return piece

    def close(self) -> None:
        self.closed = True


@dataclass
class Stored:
    """A file that the fake holds."""

    file_id: str
    body: bytes
    content_type: str = "application/octet-stream"
    whole: bool = True
    chunk_size: int = 4

    @property
    def sha256(self) -> str | None:
        return hashlib.sha256(self.body).hexdigest() if self.whole else None


@dataclass
class Upload:
    """An upload under way."""

    bucket: str
    path: str
    size: int
    chunk_size: int
    chunks: dict[int, bytes] = field(default_factory=dict)


@dataclass
class Seen:
    """A request as it was received."""

    host: str
    method: str
    path: str
    query: dict[str, str]
    headers: Headers
    body: bytes


Fault = Callable[[Seen], FakeAnswer | None]
"""Raises, or answers in the API's place, or returns None: go on."""


class FakeApi:
    """`Transport` with the API's behaviour in memory. `faults` are used up one a request."""

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], Stored] = {}
        self.buckets = {"default", "uploads"}
        self.uploads: dict[str, Upload] = {}
        self.done: dict[str, Stored] = {}
        self.trash: list[tuple[str, str, Stored]] = []
        self.operations: set[str] = set()
        self.seen: list[Seen] = []
        self.faults: deque[Fault | None] = deque()
        self.cuts: deque[int | None] = deque()
        self.page = 3
        self.closed = False

    # Faults

    def lose_before(self, error: TransportError | DfsError) -> None:
        """The next request fails with nothing done."""

        def fault(_: Seen) -> FakeAnswer | None:
            if isinstance(error, DfsError):
                return refused(error)
            raise error

        self.faults.append(fault)

    def lose_answer(self) -> None:
        """The next request is done, but its answer never comes."""

        self.faults.append(self._handle_in_vain)

    def _handle_in_vain(self, seen: Seen) -> FakeAnswer | None:
        self._handle(seen)
        raise ConnectionLost("the connection broke")

    # Transport

    def request(
        self,
        host: str,
        port: int,
        method: str,
        target: str,
        *,
        headers: Sequence[tuple[str, str]] = (),
        body: Body = None,
        length: int | None = None,
        deadline: Deadline,
        stall: float,
        expect_continue: bool = False,
        repeatable: bool = False,
    ) -> FakeAnswer:
        path, _, query = target.partition("?")
        seen = Seen(host, method, path, dict(parse_qsl(query, strict_parsing=bool(query))), Headers(headers), b"")
        self.seen.append(seen)
        fault = self.faults.popleft() if self.faults else None
        if expect_continue and fault not in (None, self._handle_in_vain):  # refused before the body is asked for
            assert fault is not None
            answer = fault(seen)
            if answer is not None:
                return answer
            fault = None
        whole = body if isinstance(body, (bytes, memoryview)) else b"".join(body or ())
        assert length is None or length == len(whole)
        seen.body = bytes(whole)
        answer = fault(seen) if fault is not None else None
        if answer is None:
            answer = self._handle(seen)
        if answer.status in (200, 206) and method == "GET" and path.startswith(("/files/", "/content/")) and self.cuts:
            answer.cut = self.cuts.popleft()
        return answer

    def close(self) -> None:
        self.closed = True

    # The API

    def add(self, path: str, body: bytes, *, bucket: str = "default", whole: bool = True, chunk_size: int = 4) -> Stored:
        """Store a file."""
        stored = Stored(new_file_id(), body, whole=whole, chunk_size=chunk_size)
        self.files[bucket, path] = stored
        self.done[stored.file_id] = stored
        return stored

    def _handle(self, seen: Seen) -> FakeAnswer:
        try:
            return self._route(seen)
        except DfsError as error:
            return refused(error, head=seen.method == "HEAD")

    def _route(self, seen: Seen) -> FakeAnswer:
        bucket = seen.query.get("bucket", "default")
        if bucket not in self.buckets:
            raise errors.NotFound(f"there is no bucket {bucket}")
        if seen.path in ROUTES:
            return ROUTES[seen.path](self, seen)
        if seen.path.startswith("/files/"):
            return self._file(seen, bucket, unquote(seen.path.removeprefix("/files/"), errors="strict"))
        if seen.path.startswith("/content/"):
            found = self.done.get(seen.path.removeprefix("/content/"))
            if found is None or found not in self.files.values():
                raise errors.NotFound("there is no file with this id")
            return content(seen, found)
        if seen.path.startswith("/uploads/"):
            return self._upload(seen.path.removeprefix("/uploads/"))
        if seen.path.startswith("/buckets/"):
            self.buckets.add(seen.path.removeprefix("/buckets/"))
            return as_json({"name": seen.path.removeprefix("/buckets/")}, 201)
        raise errors.NotFound("no such endpoint")

    def _file(self, seen: Seen, bucket: str, path: str) -> FakeAnswer:
        now = self.files.get((bucket, path))
        op_id = seen.headers.get("X-Dfs-Op") or new_file_id()
        if seen.method in ("GET", "HEAD"):
            if now is None:
                raise errors.NotFound(f"there is no file at {path!r}")
            return content(seen, now)
        if seen.method == "PUT" and op_id in self.done:
            return as_json(described(bucket, path, self.done[op_id]), 201)
        if op_id in self.operations:
            return FakeAnswer(204) if seen.method == "DELETE" else self._moved(seen, bucket, path)
        check(seen.headers, now)
        if "restore" in seen.query or "file_id" in seen.query:
            return self._out_of_trash(seen, bucket, path, op_id)
        if seen.method == "PUT":
            body = seen.body
            declared = seen.headers.get("X-File-SHA256")
            if declared not in (None, hashlib.sha256(body).hexdigest()):
                raise errors.ChecksumMismatch("the file received has another SHA-256")
            kind = seen.headers.get("Content-Type") or "application/octet-stream"
            stored = Stored(op_id, body, kind, chunk_size=int(seen.headers.get("X-Chunk-Size") or 4))
            self.files[bucket, path] = self.done[op_id] = stored
            return as_json(described(bucket, path, stored), 201)
        if now is None:
            raise errors.NotFound(f"there is no file at {path!r}")
        self.operations.add(op_id)
        if seen.method == "DELETE":
            del self.files[bucket, path]
            if "purge" not in seen.query:
                self.trash.append((bucket, path, now))
            return FakeAnswer(204)
        new = seen.query["move_to"]
        if (bucket, new) in self.files and "overwrite" not in seen.query:
            raise errors.ConditionFailed(f"there is a file at {new!r}")
        self.files[bucket, new] = self.files.pop((bucket, path))
        return self._moved(seen, bucket, path)

    def _out_of_trash(self, seen: Seen, bucket: str, path: str, op_id: str) -> FakeAnswer:
        which = seen.query.get("restore") or seen.query["file_id"]
        left = [each for each in self.trash if each[:2] == (bucket, path) and which in ("latest", each[2].file_id)]
        if not left:
            raise errors.NotFound("the trash does not hold it")
        to = seen.query.get("to", path)
        if seen.method == "POST" and (bucket, to) in self.files:
            raise errors.ConditionFailed(f"{to!r} shows a file")
        self.trash.remove(left[-1])
        self.operations.add(op_id)
        if seen.method == "DELETE":
            return FakeAnswer(204)
        self.files[bucket, to] = left[-1][2]
        return self._moved(seen, bucket, path)

    def _list_trash(self, seen: Seen) -> FakeAnswer:
        bucket, prefix = seen.query.get("bucket", "default"), seen.query.get("prefix", "")
        found = [(path, stored) for where, path, stored in self.trash if where == bucket and path.startswith(prefix)]
        found.sort(key=lambda each: each[0])
        begin = int(seen.query.get("cursor", "0"))
        files = [
            {"path": path, "file_id": stored.file_id, "size": len(stored.body), "sha256": stored.sha256}
            | {"content_type": stored.content_type, "modified": 1_700_000_000_000, "deleted_at": 1_700_000_001_000}
            | {"retired": "deleted", "expires_at": 1_700_604_801_000}
            for path, stored in found[begin : begin + self.page]
        ]
        more = begin + self.page < len(found)
        return as_json({"bucket": bucket, "files": files, "cursor": str(begin + self.page) if more else None})

    def _moved(self, seen: Seen, bucket: str, path: str) -> FakeAnswer:
        new = seen.query.get("move_to") or seen.query.get("to", path)
        return as_json(described(bucket, new, self.files[bucket, new]))

    def _list(self, seen: Seen) -> FakeAnswer:
        if "deleted" in seen.query:
            return self._list_trash(seen)
        bucket, prefix = seen.query.get("bucket", "default"), seen.query.get("prefix", "")
        delimiter, after = seen.query.get("delimiter"), seen.query.get("cursor", "")
        names: dict[str, str | None] = {}
        for where, path in self.files:
            if where == bucket and path.startswith(prefix):
                rest = path[len(prefix) :]
                cut = rest.find(delimiter) if delimiter else -1
                names[path if cut < 0 else prefix + rest[: cut + 1]] = path if cut < 0 else None
        chosen = sorted(name for name in names if name > after)
        page, more = chosen[: self.page], chosen[self.page :]
        files = [described(bucket, name, self.files[bucket, name]) for name in page if names[name]]
        prefixes = [name for name in page if not names[name]]
        return as_json({"bucket": bucket, "files": files, "prefixes": prefixes, "cursor": page[-1] if more else None})

    def _begin(self, seen: Seen) -> FakeAnswer:
        fields = json.loads(seen.body)
        chunk_size = fields.get("chunk_size") or 1024
        chunk_size = chunk_size if chunk_size > 0 else 1024
        file_id = fields.get("op_id") or new_file_id()
        path = fields.get("path") or f"{file_id}/{fields['filename']}"
        bucket = fields.get("bucket") or "uploads"
        upload = self.uploads.setdefault(file_id, Upload(bucket, path, fields["size"], chunk_size))
        if (upload.bucket, upload.path) != (bucket, path):
            raise errors.ConditionFailed(f"id {file_id} belongs to an upload of another file")
        targets = [
            {"chunk_index": n, "node": "node1", "url": f"http://h/proxy-chunk-upload?chunk_index={n}&node_id=node1"}
            for n in range(chunk_count(fields["size"], chunk_size))
        ]
        return as_json({"file_id": file_id, "chunk_size": chunk_size, "upload_targets": targets})

    def _store_chunk(self, seen: Seen) -> FakeAnswer:
        upload = self.uploads.get(seen.query["file_id"])
        if upload is None:
            raise errors.NotFound("there is no such upload")
        if seen.headers.get("X-Chunk-Checksum") != hashlib.sha256(seen.body).hexdigest():
            raise errors.ChecksumMismatch("the chunk received has another SHA-256")
        index = int(seen.query["chunk_index"])
        if upload.chunks.setdefault(index, seen.body) != seen.body:
            raise errors.ChunkConflict(f"chunk {index} is already stored with other bytes")
        return FakeAnswer(201, body=b"Chunk stored on node node1")

    def _finalize(self, seen: Seen) -> FakeAnswer:
        file_id = json.loads(seen.body)["file_id"]
        if file_id in self.done:
            stored = self.done[file_id]
        else:
            upload = self.uploads.get(file_id)
            if upload is None:
                raise errors.NotFound("there is no such upload")
            count = chunk_count(upload.size, upload.chunk_size)
            if len(upload.chunks) < count:
                raise errors.Incomplete("chunks are missing", details={"missing": missing(upload)})
            check(seen.headers, self.files.get((upload.bucket, upload.path)))
            body = b"".join(upload.chunks[n] for n in range(count))
            stored = Stored(file_id, body, whole=count <= 1, chunk_size=upload.chunk_size)
            self.files[upload.bucket, upload.path] = self.done[file_id] = stored
        return as_json(described(self.uploads[file_id].bucket, self.uploads[file_id].path, stored))

    def _plan(self, seen: Seen) -> FakeAnswer:
        found = self.done.get(seen.query["file_id"])
        if found is None:
            raise errors.NotFound("there is no such file")
        return as_json(
            [
                {
                    "chunk_index": n,
                    "url": f"http://h/proxy-chunk-download?chunk_index={n}&node_id=node1",
                    "checksum": hashlib.sha256(part(found, n)).hexdigest(),
                }
                for n in range(chunk_count(len(found.body), found.chunk_size))
            ]
        )

    def _fetch_chunk(self, seen: Seen) -> FakeAnswer:
        found = self.done.get(seen.query["file_id"])
        if found is None:
            raise errors.NotFound("there is no such file")
        return FakeAnswer(200, body=part(found, int(seen.query["chunk_index"])))

    def _upload(self, file_id: str) -> FakeAnswer:
        if file_id in self.done:
            found = self.done[file_id]
            state, size, chunk_size, gaps = "committed", len(found.body), found.chunk_size, []
            bucket, path = next((key for key, value in self.files.items() if value is found), ("default", "gone"))
        elif file_id in self.uploads:
            upload = self.uploads[file_id]
            state, size, chunk_size, gaps = "uploading", upload.size, upload.chunk_size, missing(upload)
            bucket, path = upload.bucket, upload.path
        else:
            raise errors.NotFound("there is no such upload")
        count = chunk_count(size, chunk_size)
        facts = {"file_id": file_id, "state": state, "size": size, "chunk_size": chunk_size, "chunks": count}
        return as_json(facts | {"missing": gaps, "bucket": bucket, "path": path})

    def _nodes(self, _: Seen) -> FakeAnswer:
        node = {"node_id": "node1", "address": "127.0.0.1", "port": 8081, "zone": "local", "state": "active"}
        rest = {"alive": True, "free_bytes": 1 << 30, "used_bytes": 5, "chunks": 1, "version": "1", "last_seen": 0}
        return as_json({"nodes": [node | rest, {"node_id": "node2", "alive": False}]})

    def _buckets(self, _: Seen) -> FakeAnswer:
        return as_json({"buckets": [{"name": name, "created": 0} for name in sorted(self.buckets)]})


ROUTES: dict[str, Callable[[FakeApi, Seen], FakeAnswer]] = {
    "/files": FakeApi._list,
    "/nodes": FakeApi._nodes,
    "/buckets": FakeApi._buckets,
    "/init-upload": FakeApi._begin,
    "/proxy-chunk-upload": FakeApi._store_chunk,
    "/finalize-upload": FakeApi._finalize,
    "/download-plan": FakeApi._plan,
    "/proxy-chunk-download": FakeApi._fetch_chunk,
}


def as_json(value: Any, status: int = 200) -> FakeAnswer:
    return FakeAnswer(status, [("Content-Type", "application/json")], json.dumps(value).encode())


def refused(error: DfsError, *, head: bool = False) -> FakeAnswer:
    headers = [] if error.retry_after is None else [("Retry-After", str(error.retry_after))]
    return FakeAnswer(error.status, headers, json.dumps(error.payload("r1")).encode(), head=head)


def part(stored: Stored, index: int) -> bytes:
    return stored.body[index * stored.chunk_size : (index + 1) * stored.chunk_size]


def missing(upload: Upload) -> list[list[int]]:
    count = chunk_count(upload.size, upload.chunk_size)
    return [[n, n] for n in range(count) if n not in upload.chunks]


def described(bucket: str, path: str, stored: Stored) -> dict[str, Any]:
    return {
        "bucket": bucket,
        "path": path,
        "file_id": stored.file_id,
        "etag": f'"{stored.file_id}"',
        "size": len(stored.body),
        "sha256": stored.sha256,
        "content_type": stored.content_type,
        "chunk_size": stored.chunk_size,
        "chunks": chunk_count(len(stored.body), stored.chunk_size),
        "replicas": 2,
        "modified": 1_700_000_000_000,
    }


def check(headers: Headers, now: Stored | None) -> None:
    tag = None if now is None else f'"{now.file_id}"'
    match, none = headers.get("If-Match"), headers.get("If-None-Match")
    if match is not None and (tag is None or match not in ("*", tag)):
        raise errors.ConditionFailed("the path shows another file")
    if none is not None and tag is not None and none in ("*", tag):
        raise errors.ConditionFailed("the path shows this file")


def content(seen: Seen, stored: Stored) -> FakeAnswer:
    tag = f'"{stored.file_id}"'
    if seen.headers.get("If-Match") not in (None, "*", tag):
        raise errors.ConditionFailed("the file is another one")
    headers = [
        ("ETag", tag),
        ("Content-Type", stored.content_type),
        ("Last-Modified", "Tue, 14 Nov 2023 22:13:20 GMT"),
    ]
    if stored.sha256 is not None:
        headers.append(("X-File-SHA256", stored.sha256))
    if seen.headers.get("If-None-Match") in ("*", tag):
        return FakeAnswer(304, headers)
    wanted = re.fullmatch(r"bytes=([0-9]+)-([0-9]*)", seen.headers.get("Range") or "")
    size = len(stored.body)
    if wanted is None:
        return FakeAnswer(200, headers, stored.body, head=seen.method == "HEAD")
    first = int(wanted[1])
    if first >= size:
        raise errors.RangeNotSatisfiable("outside the file")
    last = min(size - 1, int(wanted[2])) if wanted[2] else size - 1
    headers.append(("Content-Range", f"bytes {first}-{last}/{size}"))
    return FakeAnswer(206, headers, stored.body[first : last + 1])


def client_of(api: FakeApi, urls: str = "http://a:1", **options: Any) -> Client:
    """A client of the fake that tries again without waiting; over one connection unless told otherwise."""
    return Client(urls, transport=api, **{"retry": FAST, "jobs": 1} | options)


class Terminal(io.TextIOWrapper):
    """A text stream in memory that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@dataclass
class Ran:
    """How a command line ended."""

    code: int
    out: bytes
    err: str

    @property
    def text(self) -> str:
        return self.out.decode()

    @property
    def json(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]


def command(
    api: FakeApi,
    *argv: str,
    stdin: bytes = b"",
    environ: Mapping[str, str] | None = None,
    terminal: bool = False,
    stdout_terminal: bool = False,
    retry_for: str = "0",
) -> Ran:
    """Run a command line against the fake."""
    out, err = io.BytesIO(), io.BytesIO()
    stdout = (Terminal if stdout_terminal else io.TextIOWrapper)(out, write_through=True)
    stderr = (Terminal if terminal else io.TextIOWrapper)(err, write_through=True)
    code = run(
        ["--retry-for", retry_for, *argv],
        io.TextIOWrapper(io.BytesIO(stdin)),
        stdout,
        stderr,
        transport=api,
        environ=environ or {},
    )
    stdout.flush()
    stderr.flush()
    return Ran(code, out.getvalue(), err.getvalue().decode())
