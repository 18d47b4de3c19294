"""A client that speaks only the seed protocol, as the first release did: one connection per chunk,
hundreds at once, never a retry. Anything but 2xx is an error."""

from __future__ import annotations

import hashlib
import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import urlsplit


def call(method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> bytes:
    """One request on a connection of its own."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port, timeout=300)
    try:
        connection.request(method, f"{parts.path}?{parts.query}" if parts.query else parts.path, body, headers or {})
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    assert 200 <= answer.status < 300, f"{method} {url}: {answer.status} {content[:200]!r}"
    return content


def upload(api: str, name: str, data: bytes, *, chunk_size: int, at_once: int) -> str:
    """Store `data`; returns its file id."""
    fields = {"filename": name, "size": len(data), "chunk_size": chunk_size}
    plan: dict[str, Any] = json.loads(call("POST", f"{api}/init-upload", json.dumps(fields).encode()))
    targets = plan["upload_targets"]
    size = plan["chunk_size"]
    assert [target["chunk_index"] for target in targets] == list(range(-(-len(data) // size)))

    def send(target: dict[str, Any]) -> None:
        index = target["chunk_index"]
        chunk = data[index * size : (index + 1) * size]
        checksum = hashlib.sha256(chunk).hexdigest()
        said = call("POST", target["url"], chunk, {"X-Chunk-Checksum": checksum}).decode()
        assert said.startswith(f"Chunk {index} stored on node "), said

    with ThreadPoolExecutor(at_once) as pool:
        list(pool.map(send, targets))
    call("POST", f"{api}/finalize-upload", json.dumps({"file_id": plan["file_id"]}).encode())
    return str(plan["file_id"])


def download(api: str, file_id: str, *, at_once: int) -> bytes:
    """Fetch a file, every chunk checked."""
    plan = json.loads(call("GET", f"{api}/download-plan?file_id={file_id}"))
    assert [entry["chunk_index"] for entry in plan] == list(range(len(plan)))

    def fetch(entry: dict[str, Any]) -> bytes:
        chunk = call("GET", entry["url"])
        assert hashlib.sha256(chunk).hexdigest() == entry["checksum"], f"chunk {entry['chunk_index']}"
        return chunk

    with ThreadPoolExecutor(at_once) as pool:
        return b"".join(pool.map(fetch, plan))
