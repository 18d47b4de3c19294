"""The download plan of a file: the checksum of every chunk, and a node to ask for it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from urllib.parse import parse_qs, urlsplit

from dfs.client.endpoint import Endpoint
from dfs.client.failures import LocalFailure
from dfs.client.jsonstream import ArrayReader
from dfs.client.results import members, need, upload_status
from dfs.client.session import Call, Session
from dfs.client.transport import target
from dfs.client.verify import DIGEST


@dataclass(frozen=True, slots=True)
class Plan:
    """`digests` are 32 bytes a chunk, `nodes` one name a chunk ("" where the plan names none).

    `chunk_size` is 0 when it was not asked for.
    """

    file_id: str
    digests: bytes
    nodes: tuple[str, ...]
    chunk_size: int = 0

    def checksum(self, index: int) -> str:
        """The SHA-256 of chunk `index`, in hexadecimal."""
        return self.digests[index * DIGEST : (index + 1) * DIGEST].hex()


def fetch_plan(session: Session, file_id: str) -> Plan:
    """The plan by the seed protocol alone; raises NotFound, NotFinalized, NoReplica."""
    call = Call("GET", target("/download-plan", file_id=file_id), file_id)

    def attempt(endpoint: Endpoint) -> Plan:
        answer = session.send(endpoint, call)
        digests = bytearray()
        nodes: list[str] = []
        try:
            for item in ArrayReader(answer.read):
                fields = members(item, "a chunk of the plan")
                if need(fields, "chunk_index", int) != len(nodes):
                    raise LocalFailure("the server's download plan leaves out chunks: nothing was downloaded")
                digests += _digest(need(fields, "checksum", str))
                nodes.append(node_of(need(fields, "url", str)))
        finally:
            answer.close()
        return Plan(file_id, bytes(digests), tuple(nodes))

    return session.run(attempt, writes=False)


def read_plan(session: Session, file_id: str) -> Plan:
    """The plan with the chunk size, which our own servers tell."""
    status = upload_status(session.json(Call("GET", target(f"/uploads/{file_id}"), file_id)))
    plan = fetch_plan(session, file_id)
    return Plan(plan.file_id, plan.digests, plan.nodes, status.chunk_size)


def node_of(url: str) -> str:
    """The node that a chunk's URL names; "" when it names none. Equal names share memory."""
    try:
        return sys.intern(parse_qs(urlsplit(url).query).get("node_id", [""])[0])
    except ValueError:
        return ""


def _digest(text: str) -> bytes:
    try:
        digest = bytes.fromhex(text)
    except ValueError:
        digest = b""
    if len(digest) != DIGEST:
        raise LocalFailure("the server's download plan has a chunk without a checksum")
    return digest
