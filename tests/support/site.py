"""A cluster of three disk nodes behind a gated metadata store, with an API server in this process and,
when asked, others in processes of their own that die at a step: what the failure matrix is played on.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlencode

from dfs.cluster.calls import NodeCalls
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.metadata.contract import MetadataStore
from dfs.metadata.lease import LeaseHolder
from dfs.metadata.sqlite import SqliteStore
from dfs.model import AdminState, ChunkReplica, FileRecord, FileState
from dfs.repair.eraser import Eraser
from dfs.repair.leader import Leader, Policy
from dfs.repair.strays import StrayRule
from dfs.wire.client import HttpClient
from tests.support.caller import Answer, Caller, NoAnswer
from tests.support.cluster import ROOT, eventually
from tests.support.disk_node import DiskNode
from tests.support.faults import Gate
from tests.support.memory_node import LocalApi
from tests.support.metadata_audit import all_heads

LATER_MS = 25 * 3600 * 1000
"""After that long an upload that nobody touched is given up."""


class Doomed:
    """An API server in a process of its own, which dies by itself at a step, or by `kill`."""

    _keeper: subprocess.Popen[str] | None = None

    def __init__(self, site: Site, step: str, act: str, settings: dict[str, Any]) -> None:
        path = str(site.directory / "metadata.sqlite")
        said = self._ask({"path": path, "step": step, "act": act, "settings": settings})
        self._pid, self.port = map(int, said.split())
        self._ended: int | None = None
        self._lock = threading.Lock()

    @classmethod
    def _ask(cls, order: object) -> str:
        if cls._keeper is None:
            cls._keeper = subprocess.Popen(
                [sys.executable, "-m", "tests.support.doomed_api"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            atexit.register(cls._keeper.communicate)
        assert cls._keeper.stdin is not None and cls._keeper.stdout is not None
        cls._keeper.stdin.write(json.dumps(order) + "\n")
        cls._keeper.stdin.flush()
        return cls._keeper.stdout.readline()

    def kill(self) -> None:
        """`kill -9`; it is dead when this returns. For any thread."""
        if self._ended is None:
            try:
                os.kill(self._pid, signal.SIGKILL)
            except ProcessLookupError:
                pass  # somebody has seen it die meanwhile
        self._wait()

    def died(self) -> None:
        """Wait until it is dead; assert that it was killed."""
        assert self._wait() == -signal.SIGKILL

    def close(self) -> None:
        self.kill()

    def _wait(self) -> int:
        with self._lock:
            if self._ended is None:
                self._ended = int(self._ask(self._pid))
            return self._ended


class Site:
    """Three nodes, factor 2, and an API server in this process. Use as a context manager."""

    def __init__(self, directory: Path, **settings: Any) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.settings = settings
        self.gate = Gate(str(directory / "metadata.sqlite"))

        def gate(path: str) -> MetadataStore:
            return self.gate  # type: ignore[return-value]

        self.api = LocalApi(directory, open_store=gate, make_node=DiskNode, **settings)
        self.caller = self.api.caller()
        self._http = HttpClient()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.lift()
        self._http.close()
        self.api.__exit__()

    @property
    def nodes(self) -> list[DiskNode]:
        return self.api.nodes  # type: ignore[return-value]

    @property
    def store(self) -> SqliteStore:
        """The metadata, past the gate."""
        return self.gate.store

    @contextmanager
    def doomed(self, step: str = "", act: str = "", **settings: Any) -> Iterator[Doomed]:
        """Another API server of this cluster; at `step` it does `act` to itself."""
        running = Doomed(self, step, act, self.settings | settings)
        try:
            yield running
        finally:
            running.close()

    def call(self, method: str, path: str, body: bytes | None = None, *, port: int | None = None,
             query: dict[str, str] | None = None, **headers: str) -> Answer | None:  # fmt: skip
        """A call to `/files/{path}`; None when no answer came."""
        caller = self.caller if port is None else Caller(port)
        try:
            return caller.file(method, path, body, query=query, **headers)
        except NoAnswer:
            return None
        finally:
            if caller is not self.caller:
                caller.close()

    def put(self, path: str, data: bytes) -> str:
        """Store a file; returns its id."""
        answer = self.call("PUT", path, data)
        assert answer is not None and answer.status == 201, answer
        return answer.etag

    def flush_notes(self) -> None:
        """Wait until the nodes have all notes of what was done before."""
        assert self.api.service.notes.flush(30)

    def lift(self) -> None:
        """End every fault."""
        self.gate.lift()
        for node in self.nodes:
            node.before = node.after = lambda request: None

    def wait_writable(self) -> None:
        """Have the nodes send a heartbeat each; wait until all that are active are known to take chunks."""
        infos = self.store.list_nodes()
        count = sum(info.admin_state is AdminState.ACTIVE for info in infos)
        for info in infos:
            self.store.heartbeat(replace(info, heartbeat_seq=info.heartbeat_seq + 1))
        membership = self.api.service.membership
        eventually(lambda: len(membership.refresh(0.0).writable) >= count, f"{count} nodes take chunks")

    # --- what holds -------------------------------------------------------------------------

    def shown(self) -> dict[str, bytes]:
        """Every path of the bucket with what a client reads there."""
        listed = self.caller.call("GET", "/files?" + urlencode({"limit": 1000})).json["files"]
        assert isinstance(listed, list)
        found = {}
        for entry in listed:
            answer = self.call("GET", entry["path"])
            assert answer is not None and answer.status == 200 and len(answer.body) == entry["size"], entry
            found[entry["path"]] = answer.body
        return found

    def audit(self) -> set[str]:
        """Assert that heads, records, rows and bytes agree; returns files of which nodes hold bytes and
        the metadata knows nothing."""
        rows = list(self.store.scan_rows())
        records = {row.file_id: row for row in rows if isinstance(row, FileRecord)}
        replicas = [row for row in rows if isinstance(row, ChunkReplica)]
        heads = {head.file_id: head for head in all_heads(self.store)}
        committed = {key for key, record in records.items() if record.state is FileState.COMMITTED}
        assert heads.keys() == committed, "a head and its record disagree"
        nodes = {node.node_id: node for node in self.nodes}
        holders: dict[tuple[str, int], set[str]] = {}
        for row in replicas:
            key = row.file_id, row.chunk_index
            assert row.file_id in records, f"a row of no file: {row}"
            if records[row.file_id].state is not FileState.DELETING:
                assert nodes[row.node_id].sums.get(key) == row.checksum, f"a row without bytes: {row}"
            holders.setdefault(key, set()).add(row.node_id)
        for record in records.values():
            if record.state in (FileState.COMMITTED, FileState.TRASHED):
                for index in range(max(1, record.chunk_count)):
                    assert len(holders.get((record.file_id, index), ())) >= 2, f"chunk {index} of {record} is short"
        return self.api.stored() - records.keys()

    def surplus(self) -> set[str]:
        """Files of which some node holds a chunk without a row that says so."""
        rows = {(row.file_id, row.chunk_index, row.node_id)
                for row in self.store.scan_rows() if isinstance(row, ChunkReplica)}  # fmt: skip
        return {key[0] for node in self.nodes for key in node.chunks if (*key, node.node_id) not in rows}

    def state_of(self, file_id: str) -> FileState | None:
        """The state of a file's record."""
        record = self.store.get_file(file_id)
        return None if record is None else record.state

    def later(self) -> int:
        """A time at which everything is due that is ever due by itself."""
        return self.api.service.now() + LATER_MS

    def eraser(self, store: MetadataStore | Gate) -> Eraser:
        """An eraser of the test's own. Who held the lease before is soon held to be dead."""
        service = self.api.service
        calls = NodeCalls(self._http, service.cluster.cluster_id, 1.0)
        lease = LeaseHolder(store, "eraser", os.urandom(8).hex(), 0.05)  # type: ignore[arg-type]
        ttl = LATER_MS / 1000 - 60
        return Eraser(
            store, service.membership, calls, lease, grace=0.0, upload_ttl=ttl, interval=3600.0, pace=0.0
        )  # type: ignore[arg-type]

    def leader(self) -> Leader:
        """A leader of repair of the test's own, which looks all the time; that of the server is stopped."""
        service = self.api.service
        service.repair.stop()
        policy = Policy(
            factor=2, delay=0.5, interval=0.05, upload_ttl=LATER_MS / 1000, write_seconds=0.2, settle=0.2
        )
        name = f"test-{os.urandom(8).hex()}"
        return Leader(
            self.gate,  # type: ignore[arg-type]
            service.cluster,
            service.membership,
            service.placement,
            NodeCalls(self._http, service.cluster.cluster_id, 1.0),
            LeaseHolder(self.gate, "repair", name, 1.0),  # type: ignore[arg-type]
            name,
            policy,
            mbps=1000,
            jobs=2,
        )

    def sweep(self) -> None:
        """Have the rule for records without a row judge every node as if all writes had long ended."""
        service = self.api.service
        calls = NodeCalls(self._http, service.cluster.cluster_id, 5.0)
        upkeep = UpkeepCalls(calls)
        rule = StrayRule(
            self.store,
            service.membership,
            upkeep,
            calls,
            service.cluster,
            factor=2,
            fence=lambda: Fence("sweep", 1, 1),
            alone=lambda key: nullcontext(True),
            now_ms=service.now,
        )
        for info in self.store.list_nodes():
            doomed = rule.read(info, 0, surplus_ms=0, unknown_ms=0).doomed
            if doomed:
                assert rule.remove(info, doomed) == len(doomed)

    def erase(self) -> None:
        """Have the eraser run a day later, until it has nothing left to do."""
        eraser = self.eraser(self.store)
        for _ in range(2):
            eventually(lambda: eraser.run_once(self.later()).finished, "the eraser has run")
