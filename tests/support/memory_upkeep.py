"""A memory node's answers to the calls of background work: see memory_node."""

from __future__ import annotations

import hashlib
import threading
import time
from typing import Any

from dfs.errors import CorruptChunk, DfsError, Fenced, Gone, NoReplica, NotFound
from dfs.notation import MIB
from dfs.wire.client import HttpClient, TransportError
from dfs.wire.deadline import Deadline
from dfs.wire.message import Request, Response, parse_json_object

PIECE = 256 * 1024
Key = tuple[str, int]


class MemoryUpkeep:
    """What a memory node holds. `corrupt` are the chunks whose copy is bad, `aside` those set aside."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.lock = threading.Lock()
        self.chunks: dict[Key, bytes] = {}
        self.sums: dict[Key, str] = {}
        self.erased: set[str] = set()
        self.corrupt: set[Key] = set()
        self.aside: dict[Key, bytes] = {}
        self.sequences: dict[Key, int] = {}
        self.verified: dict[Key, int] = {}
        self.created: dict[Key, int] = {}
        self.fences: dict[str, tuple[int, int]] = {}
        self.admin_state = "active"
        self._http = HttpClient()

    def _keep(self, key: Key, data: bytes, checksum: str) -> None:
        raise NotImplementedError

    def corrupt_copy(self, file_id: str, index: int) -> None:
        """Make the copy of a chunk one whose bytes are wrong on the disk."""
        with self.lock:
            key = (file_id, index)
            data = self.chunks[key]
            self.chunks[key] = bytes([data[0] ^ 1]) + data[1:] if data else data
            self.corrupt.add(key)

    def _forget(self, key: Key) -> bytes | None:
        with self.lock:
            self.corrupt.discard(key)
            self.sums.pop(key, None)
            self.sequences.pop(key, None)
            self.verified.pop(key, None)
            self.created.pop(key, None)
            return self.chunks.pop(key, None)

    def _set_aside(self, request: Request) -> Response:
        self._check_fence(request)
        key = key_of(request)
        data = self._forget(key)
        if data is not None:
            self.aside[key] = data
        return Response.json(200, {"set_aside": data is not None})

    def _check_fence(self, request: Request) -> None:
        text = request.headers.get("X-Dfs-Fence")
        if text is not None:
            name, generation, number = text.split()
            given = (int(generation), int(number))
            with self.lock:
                highest = self.fences.get(name, given)
                if given < highest:
                    raise Fenced(f"{name} is at {highest}")
                self.fences[name] = given

    def _pull(self, request: Request) -> Response:
        self._check_fence(request)
        key = key_of(request)
        source = parse_json_object(request.body.read_all(4096))
        if key not in self.chunks or key in self.corrupt or self.sums[key] != source["checksum"]:
            self._keep(key, self._fetch(key, source), source["checksum"])
        answer = {"node_id": self.node_id, "file_id": key[0], "chunk_index": key[1]}
        return Response.json(201, answer | {"checksum": source["checksum"], "length": source["length"]})

    def _fetch(self, key: Key, source: dict[str, Any]) -> bytes:
        last = max(0, -(-source["length"] // PIECE) - 1)
        try:
            with self._http.request(
                source["address"],
                source["port"],
                "GET",
                f"/get-chunk?file_id={key[0]}&chunk_index={key[1]}",
                headers=[("X-Dfs-Node", source["node_id"]), ("X-Dfs-Pieces", f"0-{last}")],
                deadline=Deadline(10),
                stall=5,
            ) as answer:
                data = b"".join(iter(lambda: answer.read(MIB), b""))
                if answer.status == 200 and hashlib.sha256(data).hexdigest() == source["checksum"]:
                    return data
                what = f"it answered {answer.status}, or other bytes"
        except TransportError as error:
            what = str(error)
        raise NoReplica(f"{source['node_id']} did not give the chunk: {what}")

    def _verify_one(self, request: Request) -> Response:
        return Response.json(200, self._verdict(key_of(request)))

    def _verdict(self, key: Key) -> dict[str, Any]:
        with self.lock:
            if key[0] in self.erased:
                raise Gone("erased")
            if key not in self.chunks:
                raise NotFound("no such chunk")
            if hashlib.sha256(self.chunks[key]).hexdigest() != self.sums[key]:
                self.corrupt.add(key)
            if key in self.corrupt:
                raise CorruptChunk("the copy of this chunk is corrupt")
            self.verified[key] = time.time_ns() // 1_000_000
            return {"checksum": self.sums[key], "length": len(self.chunks[key])}

    def _verify_many(self, request: Request) -> Response:
        verdicts: list[dict[str, Any]] = []
        for file_id, index in parse_json_object(request.body.read_all(64 * 1024))["chunks"]:
            try:
                verdicts.append(self._verdict((file_id, index)))
            except DfsError as error:
                said = {"status": error.status, "code": error.code, "message": error.message}
                verdicts.append({"error": said})
        return Response.json(200, {"chunks": verdicts})

    def _bad_chunks(self, request: Request) -> Response:
        after = (request.query.get("after_file") or "", int(request.query.get("after_index") or -1))
        limit = int(request.query.get("limit") or 1000)
        with self.lock:
            found = sorted(key for key in self.corrupt if key > after)[:limit]
        listed = [
            {"file_id": file_id, "chunk_index": index, "found_at": 1, "why": "its bytes do not match their CRC"}
            for file_id, index in found
        ]
        more = {"file_id": found[-1][0], "chunk_index": found[-1][1]} if len(found) == limit else None
        return Response.json(200, {"chunks": listed, "next": more})

    def _inventory(self, request: Request) -> Response:
        after, limit = int(request.query.get("after") or 0), int(request.query.get("limit") or 1000)
        with self.lock:
            found = sorted((number, key) for key, number in self.sequences.items() if number > after)[:limit]
            listed = [
                {
                    "sequence": number,
                    "file_id": key[0],
                    "chunk_index": key[1],
                    "length": len(self.chunks[key]),
                    "checksum": self.sums[key],
                    "created": self.created.get(key, 1),
                    "verified": self.verified.get(key),
                }
                for number, key in found
            ]
        return Response.json(200, {"chunks": listed, "next": found[-1][0] if len(found) == limit else None})

    def _look(self, request: Request) -> Response:
        return Response.json(200, {"admin_state": self.admin_state})


def key_of(request: Request) -> Key:
    return str(request.query.get("file_id")), int(request.query.get("chunk_index") or 0)
