"""dfs.node.routes and dfs.node.health: the table, the addressee, and what a node says of itself."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from dfs.errors import Fenced, WrongNode
from dfs.model import AdminState
from dfs.node.batch import BatchEndpoint
from dfs.node.bulk import BulkEndpoints
from dfs.node.chunks import ChunkEndpoints, Intake
from dfs.node.fence import Fences
from dfs.node.health import HealthEndpoints
from dfs.node.pull import PullEndpoint
from dfs.node.reading import ReadEndpoint
from dfs.node.registration import Registration
from dfs.node.routes import check_addressee, node_routes
from dfs.node.scrub import Scrubber
from dfs.node.standing import Standing
from dfs.node.upkeep import UpkeepEndpoints
from dfs.wire.buffers import BufferPool
from dfs.wire.message import Headers
from dfs.wire.route import Router
from tests.support.disk import SimDisk
from tests.unit.node.fakes import FILE_ID, NODE, USAGE, FakeRegistry, FakeStore, request

CALLS = [
    ("PUT", "/store-chunk"), ("POST", "/store-chunk"), ("POST", "/store-chunks"), ("GET", "/get-chunk"),
    ("HEAD", "/get-chunk"), ("POST", "/verify-chunk"), ("POST", "/verify-chunks"), ("GET", "/bad-chunks"),
    ("POST", "/set-aside-chunk"), ("POST", "/scrub"), ("POST", "/look"), ("POST", "/drop-replica"),
    ("POST", "/pull-chunk"), ("POST", "/erase-files"),
    ("POST", "/notes"), ("GET", "/inventory"), ("GET", "/healthz"), ("GET", "/readyz"),
]  # fmt: skip


class Bench:
    def __init__(self) -> None:
        self.store = FakeStore()
        self.standing = Standing(self.store)
        store: Any = self.store
        registry: Any = FakeRegistry()
        self.registration = Registration(
            registry, NODE, self.standing, cluster_id="c1", interval=30, on_lost=lambda _: None
        )
        buffers = BufferPool(1 << 20)
        intake = Intake("n1", store, self.standing, buffers, 1024, on_refused=lambda: None)
        chunks, batch = ChunkEndpoints(intake), BatchEndpoint(intake)
        http: Any = None
        pull = PullEndpoint("c1", chunks, store, self.standing, buffers, http, max_chunk_size=1024)
        scrubber = Scrubber(store, self.standing, mbps=20, period=3600.0, busy=lambda: False)
        self.health = HealthEndpoints("c1", self.registration, self.standing, scrubber)
        upkeep = UpkeepEndpoints("n1", store, self.standing, self.registration, scrubber)
        self.fences = Fences(SimDisk(), "/disk")
        self.router = Router(
            node_routes(
                "n1", "c1", chunks, batch, ReadEndpoint("n1", store), pull, BulkEndpoints(store), upkeep, self.health,
                self.fences,
            )
        )

    def call(self, method: str, target: str, body: bytes = b"", headers: Any = ()) -> Any:
        route, _ = self.router.find(method, target.partition("?")[0])
        return route.handler(request(method, target, body, headers))

    def readyz(self) -> tuple[int, Any]:
        answer = self.call("GET", "/readyz")
        return answer.status, json.loads(answer.body)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize("name", ["X-Dfs-Node", "X-Dfs-Cluster"])
def test_no_call_meant_for_another_is_carried_out(bench: Bench, method: str, path: str, name: str) -> None:
    made = request(method, f"{path}?file_id={FILE_ID}&chunk_index=0", b"abc", [(name, "other")])
    route, _ = bench.router.find(method, path)
    with pytest.raises(WrongNode) as refused:
        route.handler(made)
    assert refused.value.details == {"node_id": "n1"}
    assert not made.body.started
    assert not bench.store.data and not bench.store.erased and not bench.store.noted


def test_the_table_holds_these_calls_and_no_others(bench: Bench) -> None:
    table = {(route.method, route.pattern) for route in bench.router.routes}
    assert table == {call for call in CALLS if call[0] != "HEAD"}
    assert all(route.doc for route in bench.router.routes)


def test_a_call_meant_for_this_node_or_for_nobody_is_carried_out(bench: Bench) -> None:
    target = f"/store-chunk?file_id={FILE_ID}&chunk_index=0"
    named = [("X-Dfs-Node", "n1"), ("X-Dfs-Cluster", "c1")]
    assert bench.call("PUT", target, b"abc", named).status == 201
    assert bench.call("POST", target, b"abc").status == 201


@pytest.mark.parametrize("values", [("n1", "n2"), ("n2", "n1"), ("N1",), ("",), ("n1 ",), ("n1, n1",)])
def test_the_addressee_is_compared_exactly_and_in_every_header(values: tuple[str, ...]) -> None:
    with pytest.raises(WrongNode):
        check_addressee(Headers([("x-dfs-node", value) for value in values]), "n1", "c1")


def test_healthz_tells_what_the_process_is(bench: Bench) -> None:
    answer = bench.call("GET", "/healthz")
    assert answer.status == 200
    told = json.loads(answer.body)
    assert told.items() >= {
        "role": "node", "node_id": "n1", "cluster_id": "c1", "boot_id": "b1", "disk_id": "d1", "version": "0",
        "wire_version": 1, "disk_format": 1, "status": "active", "admin_state": "active", "registry": "reachable",
        "free_bytes": 900, "used_bytes": 100, "capacity_bytes": 1000, "chunks": 3, "reason": None,
    }.items()  # fmt: skip


def test_readyz_while_the_node_reads_and_writes(bench: Bench) -> None:
    status, told = bench.readyz()
    assert (status, told["ready"]) == (200, True)
    bench.store.space = replace(USAGE, full=True)
    assert bench.readyz()[0] == 200, "a full node still reads, and a restart makes no room"
    bench.store.space = USAGE
    bench.registration.reachable = False
    status, told = bench.readyz()
    assert (status, told["registry"]) == (200, "unreachable")
    bench.standing.admin_state = AdminState.DRAINING
    assert bench.readyz()[0] == 200


def test_readyz_of_a_node_that_goes_or_cannot_write(bench: Bench) -> None:
    bench.standing.stopping = True
    assert bench.readyz()[0] == 503
    bench.standing.stopping = False
    bench.store.space = replace(USAGE, read_only_reason="fdatasync failed")
    status, told = bench.readyz()
    assert (status, told["ready"], told["reason"]) == (503, False, "fdatasync failed")
    bench.store.space = USAGE
    bench.standing.lost = "superseded"
    status, told = bench.readyz()
    assert (status, told["reason"]) == (503, "superseded")
    assert bench.call("GET", "/healthz").status == 200


@pytest.mark.parametrize(("method", "path"), [call for call in CALLS if call[0] == "POST"])
def test_work_under_a_lease_is_refused_to_who_has_lost_it(bench: Bench, method: str, path: str) -> None:
    bench.fences.check(Headers([("X-Dfs-Fence", "repair 1 5")]))
    target = f"{path}?file_id={FILE_ID}&chunk_index=0"
    fenced = path in ("/pull-chunk", "/drop-replica", "/set-aside-chunk")
    refused = False
    try:
        bench.call(method, target, b"", [("X-Dfs-Fence", "repair 1 4")])
    except Fenced:
        refused = True
    except Exception as error:  # what the call itself makes of an empty body
        assert not fenced, error
    assert refused is fenced
