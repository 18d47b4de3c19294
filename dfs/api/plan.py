"""Plans: where a client is to send each chunk, and where to fetch it. Streamed, with little state."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from itertools import groupby

from dfs.api.answers import compact
from dfs.cluster.view import View
from dfs.errors import NoReplica
from dfs.model import ChunkReplica, FileRecord, NodeInfo
from dfs.wire.message import Request

_DIGEST = 32
_NOWHERE = 0xFFFF


def base_url(public_url: str | None, request: Request, bind: str) -> str:
    """The URL before the paths of a plan: configured, else by the name the client itself used."""
    if public_url is not None:
        return public_url
    if request.host is not None:
        return f"http://{request.host}"
    port = request.server.port if request.server is not None else 80
    return f"http://[{bind}]:{port}" if ":" in bind else f"http://{bind}:{port}"


def upload_targets(base: str, file_id: str, nodes: Iterable[NodeInfo]) -> Iterator[str]:
    """The JSON of every entry of an upload plan, chunk by chunk."""
    before = f'"url":{compact(f"{base}/proxy-chunk-upload?file_id={file_id}&chunk_index=")[:-1]}'
    for index, node in enumerate(nodes):
        name = node.node_id
        yield f'{{"chunk_index":{index},"node":"{name}",{before}{index}&node_id={name}"}}'


class DownloadPlan:
    """The node and checksum of every chunk: 34 bytes a chunk."""

    def __init__(self, record: FileRecord, rows: Iterable[ChunkReplica], view: View) -> None:
        """Reads all of `rows` (in order of chunk_index); raises NoReplica naming the first chunk
        that no live node holds, so that no plan ever lacks a chunk."""
        self._file_id = record.file_id
        self._names: list[str] = []
        self._numbers: dict[str, int] = {}
        self._nodes = array("H", [_NOWHERE]) * record.chunk_count
        self._digests = bytearray(_DIGEST * record.chunk_count)
        expected = 0
        for index, group in groupby(rows, key=lambda row: row.chunk_index):
            if index >= record.chunk_count:
                break
            if index != expected:
                break
            self._choose(index, list(group), view)
            expected += 1
        if expected < record.chunk_count:
            raise NoReplica(f"chunk {expected} of {record.file_id} has no replica")

    def _choose(self, index: int, rows: list[ChunkReplica], view: View) -> None:
        best: ChunkReplica | None = None
        best_rank = (2, 2)
        for row in rows:
            member = view.get(row.node_id)
            if member is None or not member.alive:
                continue
            rank = (int(member.suspect), int(row.replica_type != "primary"))
            if rank < best_rank:
                best, best_rank = row, rank
        if best is None:
            nodes = ", ".join(row.node_id for row in rows)
            raise NoReplica(f"chunk {index} of {self._file_id} has no live replica; it is on {nodes}")
        number = self._numbers.get(best.node_id)
        if number is None:
            number = self._numbers[best.node_id] = len(self._names)
            self._names.append(best.node_id)
        self._nodes[index] = number
        self._digests[_DIGEST * index : _DIGEST * (index + 1)] = bytes.fromhex(best.checksum)

    def entries(self, base: str) -> Iterator[str]:
        """The JSON of every entry, in order."""
        url = compact(f"{base}/proxy-chunk-download?file_id={self._file_id}&chunk_index=")[:-1]
        for index, number in enumerate(self._nodes):
            name = self._names[number]
            digest = self._digests[_DIGEST * index : _DIGEST * (index + 1)].hex()
            yield f'{{"chunk_index":{index},"url":{url}{index}&node_id={name}","checksum":"{digest}"}}'
