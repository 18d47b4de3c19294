"""Replication: strategies, substitution, and what is said when it cannot be done.

Every test runs twice, with a small chunk's lanes begun in batches and without: it makes no difference."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any

import pytest

from dfs import errors
from dfs.cluster.batches import Batches
from dfs.cluster.placement import Placement
from dfs.cluster.replicate import Late, Replicator, Written, may_hold
from dfs.model import NodeStatus
from tests.unit.cluster.fakes import FILE, Cluster, Inline, Never, json_answer, refuse, sha

DATA = b"some bytes " * 1000


_opened: list[Batches] = []
_batched = [False]


@pytest.fixture(params=["alone", "in batches"], autouse=True)
def _way(request: pytest.FixtureRequest) -> Iterator[None]:
    _batched[0] = request.param == "in batches"
    yield
    while _opened:
        _opened.pop().close()


def replicator(
    cluster: Cluster,
    factor: int = 2,
    strategy: str = "sync",
    *,
    executor: Executor | None = None,
    late: list[Late] | None = None,
    **more: Any,
) -> Replicator:
    if _batched[0]:
        more["batches"] = Batches(cluster.calls, cluster.membership)
        _opened.append(more["batches"])
    return Replicator(
        cluster.membership,
        Placement(),
        cluster.calls,
        factor=factor,
        strategy=strategy,
        timeout=30,
        executor=executor or Inline(),
        on_late=(late if late is not None else []).append,
        **more,
    )


def write(it: Replicator, data: bytes = DATA, **more: Any) -> Written:
    return it.write(
        FILE, 0, memoryview(data), checksum=sha(data), chunk_size=len(data) or 1, file_size=None, now_ms=5, **more
    )


def order(cluster: Cluster) -> list[str]:
    return [node.node_id for node in Placement().nodes_for(FILE, 0, cluster.membership.view())]


def names(written: Written) -> list[str]:
    return [row.node_id for row in written.replicas]


# --- sync ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("executor", [Inline, Never, lambda: ThreadPoolExecutor(4)])
@pytest.mark.parametrize("factor", [1, 2, 3])
def test_sync_stores_all_replicas_on_the_preferred_nodes(executor: Any, factor: int) -> None:
    cluster = Cluster("a", "b", "c", "d")
    written = write(replicator(cluster, factor, executor=executor()))
    assert names(written) == order(cluster)[:factor]
    assert [row.replica_type for row in written.replicas] == ["primary", "secondary", "secondary"][:factor]
    row = written.replicas[0]
    assert (row.file_id, row.chunk_index, row.checksum, row.length, row.created_at) == (FILE, 0, sha(DATA), len(DATA), 5)
    assert (written.short, written.pending, written.uncertain) == (False, None, ())
    assert cluster.holders() == set(names(written))


def test_an_empty_chunk_is_a_chunk() -> None:
    cluster = Cluster("a", "b")
    assert write(replicator(cluster), b"").replicas[0].length == 0


def test_the_hinted_node_comes_first_if_it_takes_chunks() -> None:
    cluster = Cluster("a", "b", "c")
    last = order(cluster)[-1]
    assert names(write(replicator(cluster), prefer=last))[0] == last
    cluster[last].down = True
    cluster.membership.report_failure(last, "refused")
    assert last not in names(write(replicator(cluster), prefer=last))
    assert last not in names(write(replicator(cluster), prefer="nobody"))


@pytest.mark.parametrize("trouble", ["down", "lost", "full", "read_only", "wrong", "busy", "broken"])
def test_a_node_that_cannot_is_replaced_by_the_next(trouble: str) -> None:
    cluster = Cluster("a", "b", "c")
    first, second, third = order(cluster)
    node = cluster[first]
    answers = {
        "full": errors.NodeFull("full"),
        "read_only": errors.StoreReadOnly("disk"),
        "wrong": errors.WrongNode("no"),
        "busy": errors.Busy("later"),
        "broken": errors.DfsError("internal"),
    }
    if trouble == "down":
        node.down = True
    elif trouble == "lost":
        node.loses_answers = True
    else:
        node.trouble = refuse(answers[trouble], "/store-chunk")
    written = write(replicator(cluster))
    assert set(names(written)) == {second, third}
    assert not written.short
    assert written.uncertain == ((first,) if trouble in ("lost", "broken") else ())
    assert (cluster.suspects() == {first}) == (trouble in ("down", "lost", "wrong"))
    writable = {info.node_id for info in cluster.membership.view().writable}
    assert (first in writable) == (trouble in ("busy", "broken"))


def test_a_substitute_keeps_the_zones_apart() -> None:
    cluster = Cluster("a1", "a2", "a3", "b1", "b2", "b3", zones="aaabbb")
    first, second, *_ = order(cluster)
    cluster[second].down = True
    written = write(replicator(cluster))
    assert {name[0] for name in names(written)} == {"a", "b"}
    assert first in names(written)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (errors.ChunkConflict("others"), errors.ChunkConflict),
        (errors.Gone("erased"), errors.Gone),
        (errors.ChecksumMismatch("flipped"), errors.ChecksumMismatch),
        (errors.BadRequest("a bug"), errors.BadRequest),
    ],
)
def test_an_answer_about_the_chunk_is_passed_on_and_nobody_else_is_asked(
    error: errors.DfsError, kind: type[errors.DfsError]
) -> None:
    cluster = Cluster("a", "b", "c", "d")
    first, second, *others = order(cluster)
    cluster[second].trouble = refuse(error, "/store-chunk")
    with pytest.raises(kind) as refused:
        write(replicator(cluster))
    assert may_hold(refused.value) == (first,)
    assert not any("/store-chunk" in cluster[name].calls for name in others)
    assert cluster.suspects() == set()


def test_a_repeat_with_other_bytes_is_a_conflict_and_changes_nothing() -> None:
    cluster = Cluster("a", "b", "c")
    write(replicator(cluster))
    with pytest.raises(errors.ChunkConflict):
        write(replicator(cluster), b"other bytes")
    assert {cluster[name].chunks[FILE, 0] for name in cluster.holders()} == {DATA}


# --- too few ---------------------------------------------------------------------------------------


def test_too_few_nodes_are_said_as_the_seed_says_it_and_nothing_is_sent() -> None:
    cluster = Cluster("a", "b", "c")
    for name in "ab":
        cluster[name].down = True
        cluster.membership.report_failure(name, "refused")
    with pytest.raises(errors.NotEnoughNodes, match=r"^Not enough active nodes. Required: 2, Available: 1$"):
        write(replicator(cluster))
    assert "/store-chunk" not in cluster["c"].calls


def test_nodes_that_die_during_the_write() -> None:
    cluster = Cluster("a", "b", "c")
    for name in "ab":
        cluster[name].down = True
    with pytest.raises(errors.NotEnoughNodes, match=r"^Not enough active nodes. Required: 2, Available: 1$") as few:
        write(replicator(cluster))
    assert may_hold(few.value) == ("c",)
    assert few.value.retryable and few.value.status == 503


def test_nodes_thought_dead_are_asked_before_a_write_fails() -> None:
    cluster = Cluster("a", "b")
    cluster.membership.report_failure("a", "a reset that means nothing")
    assert len(write(replicator(cluster)).replicas) == 2


def test_a_node_that_failed_once_and_answers_again_gets_the_chunk_after_all() -> None:
    cluster = Cluster("a", "b")
    cluster.clock.now += 10
    troubles = [True]

    def once(method: str, path: str) -> None:
        if path == "/store-chunk" and troubles:
            troubles.clear()
            raise_reset()

    cluster["a"].trouble = once
    written = write(replicator(cluster))
    assert set(names(written)) == {"a", "b"}
    assert written.uncertain == ()


def raise_reset() -> None:
    from dfs.wire.client import ConnectionLost

    raise ConnectionLost("reset")


def test_full_nodes_are_a_full_cluster() -> None:
    cluster = Cluster("a", "b", "c")
    for name in "ab":
        cluster[name].trouble = refuse(errors.NodeFull("reserve"), "/store-chunk")
    with pytest.raises(errors.ClusterFull, match="Required: 2, Available: 1"):
        write(replicator(cluster))
    with pytest.raises(errors.ClusterFull):
        replicator(cluster).check_nodes()
    known_full = Cluster("a", "b")
    for name in "ab":
        known_full.registry.change(name, status=NodeStatus.FULL)
    known_full.clock.now += 10
    known_full.membership.refresh()
    with pytest.raises(errors.ClusterFull):
        write(replicator(known_full))


def test_dead_nodes_are_not_called_full_because_another_is() -> None:
    cluster = Cluster("a", "b", "c")
    cluster["a"].trouble = refuse(errors.NodeFull("reserve"), "/store-chunk")
    cluster["b"].down = cluster["c"].down = True
    with pytest.raises(errors.NotEnoughNodes, match="Required: 2, Available: 0"):
        write(replicator(cluster))


def test_full_nodes_whose_heartbeat_comes_meanwhile_are_full_all_the_same() -> None:
    cluster = Cluster("a", "b", "c")
    for name in "abc":
        cluster[name].trouble = refuse(errors.NodeFull("reserve"), "/store-chunk")
    cluster.registry.on_read = lambda: [cluster.registry.beat(name) for name in "abc"]  # type: ignore[func-returns-value]
    with pytest.raises(errors.ClusterFull):
        write(replicator(cluster))


def test_nodes_that_answer_and_never_store_are_not_called_active() -> None:
    cluster = Cluster("a", "b")
    cluster["a"].trouble = refuse(errors.Busy("no memory"), "/store-chunk")
    with pytest.raises(errors.NotEnoughNodes, match="Required: 2, Available: 1"):
        write(replicator(cluster))


def test_check_nodes_with_a_number_of_its_own() -> None:
    cluster = Cluster("a", "b")
    it = replicator(cluster, 3, "async")
    assert len(it.check_nodes().writable) == 2
    with pytest.raises(errors.NotEnoughNodes, match="Required: 3, Available: 2"):
        it.check_nodes(3)


def test_a_bug_in_a_lane_is_raised_to_the_writer_and_ends_all_lanes() -> None:
    cluster = Cluster("a", "b", "c")

    def bug(method: str, path: str) -> None:
        raise ZeroDivisionError

    for name in "abc":
        cluster[name].trouble = bug  # type: ignore[assignment]
    with pytest.raises(ZeroDivisionError):
        write(replicator(cluster, executor=ThreadPoolExecutor(2)))


@pytest.mark.parametrize("strategy", ["sync", "quorum", "async"])
def test_a_closed_pool_stops_no_write(strategy: str) -> None:
    cluster = Cluster("a", "b", "c")
    pool = ThreadPoolExecutor(2)
    pool.shutdown()
    it = replicator(cluster, 3, strategy, executor=pool)
    assert len(write(it).replicas) >= it.required
    assert it.drain(30)


# --- quorum and async --------------------------------------------------------------------------------


class Gate:
    """Holds back stores at one node until opened."""

    def __init__(self) -> None:
        self.opened = threading.Event()

    def __call__(self, method: str, path: str) -> None:
        if path == "/store-chunk":
            assert self.opened.wait(30)


@pytest.mark.parametrize(("strategy", "required"), [("quorum", 2), ("async", 1)])
def test_enough_is_enough_and_the_rest_follows(strategy: str, required: int) -> None:
    cluster, late, gate = Cluster("a", "b", "c"), list[Late](), Gate()
    slow = order(cluster)[required:]
    for name in slow:
        cluster[name].trouble = gate  # type: ignore[assignment]
    pool = ThreadPoolExecutor(4)
    it = replicator(cluster, 3, strategy, executor=pool, late=late)
    buffer = bytearray(DATA)
    written = it.write(
        FILE, 0, memoryview(buffer), checksum=sha(DATA), chunk_size=len(DATA), file_size=len(DATA), now_ms=5
    )
    buffer[:] = bytes(len(buffer))  # the caller's memory is the caller's again
    assert set(names(written)) <= set(order(cluster)[:required]) and len(written.replicas) == required
    assert written.short and written.pending is not None
    assert not it.drain(0)
    written.pending()
    written.pending()
    assert late == []
    gate.opened.set()
    assert it.drain(30)
    pool.shutdown()
    assert len(late) == 1
    assert late[0].complete and {row.node_id for row in late[0].rows} == set(slow)
    assert late[0].recorded == written.replicas
    assert {row.replica_type for row in late[0].rows} == {"secondary"}
    assert {cluster[name].chunks[FILE, 0] for name in cluster.holders()} == {DATA}
    assert it._bytes_left == 32 << 20


def test_replicas_that_follow_before_the_rows_are_recorded_wait_for_that() -> None:
    cluster, late, gate = Cluster("a", "b"), list[Late](), Gate()
    cluster[order(cluster)[1]].trouble = gate  # type: ignore[assignment]
    pool = ThreadPoolExecutor(4)
    it = replicator(cluster, 2, "async", executor=pool, late=late)
    written = write(it)
    gate.opened.set()
    assert it.drain(30)
    assert late == [] and written.pending is not None
    written.pending()
    assert it.drain(30)
    assert late[0].complete
    pool.shutdown()


def test_what_never_followed_is_not_told() -> None:
    cluster, late, gate = Cluster("a", "b"), list[Late](), Gate()
    last = order(cluster)[1]
    cluster[last].trouble = lambda method, path: gate(method, path) or refuse(errors.Busy("no"), "/store-chunk")(
        method, path
    )
    pool = ThreadPoolExecutor(4)
    it = replicator(cluster, 2, "async", executor=pool, late=late)
    written = write(it)
    gate.opened.set()
    assert written.pending is not None
    written.pending()
    assert it.drain(30)
    assert late == [] and written.short
    pool.shutdown()


def test_with_no_memory_left_for_the_background_all_lanes_are_waited_for() -> None:
    cluster = Cluster("a", "b", "c")
    it = replicator(cluster, 3, "async", background_bytes=10)
    written = write(it)
    assert len(written.replicas) == 3 and not written.short and written.pending is None
    cluster[order(cluster)[0]].down = True
    written = write(it)
    assert len(written.replicas) == 2 and written.short and written.pending is None


def test_a_busy_pool_is_not_waited_for() -> None:
    cluster, busy = Cluster("a", "b", "c"), Never()
    it = replicator(cluster, 3, "quorum", executor=busy)
    written = write(it)
    # Batches need no pool: the third may have been as quick.
    assert len(written.replicas) in ((2, 3) if _batched[0] else (2,))
    assert written.short == (len(written.replicas) == 2)
    busy.run()
    assert it.drain(30)
    assert cluster.holders() == {"a", "b", "c"}


def test_a_conflict_is_a_conflict_in_every_strategy() -> None:
    cluster = Cluster("a", "b", "c")
    # One conflict ends it if it is met before enough others have stored; batches have no order.
    for name in order(cluster) if _batched[0] else order(cluster)[:1]:
        cluster[name].trouble = refuse(errors.ChunkConflict("others"), "/store-chunk")
    it = replicator(cluster, 3, "async")
    with pytest.raises(errors.ChunkConflict):
        write(it)
    assert it.drain(0)


def test_too_few_for_a_quorum() -> None:
    cluster = Cluster("a", "b", "c")
    for name in "ab":
        cluster[name].down = True
    it = replicator(cluster, 3, "quorum")
    with pytest.raises(errors.NotEnoughNodes, match="Required: 2, Available: 1"):
        write(it)
    assert it.drain(0) and it._bytes_left == 32 << 20


def test_a_listener_that_fails_and_a_pool_that_closes_end_the_background_all_the_same() -> None:
    cluster, gate = Cluster("a", "b"), Gate()
    cluster[order(cluster)[1]].trouble = gate  # type: ignore[assignment]
    pool = ThreadPoolExecutor(4)
    it = replicator(cluster, 2, "async", executor=pool)

    def broken(late: Late) -> None:
        raise ZeroDivisionError

    it._on_late = broken
    written = write(it)
    assert written.pending is not None
    written.pending()
    gate.opened.set()
    assert it.drain(30)

    cluster, gate = Cluster("a", "b"), Gate()
    cluster[order(cluster)[1]].trouble = gate  # type: ignore[assignment]
    it = replicator(cluster, 2, "async", executor=pool)
    written = write(it)
    pool.shutdown(wait=False)
    gate.opened.set()
    assert it.drain(30)
    assert written.pending is not None
    written.pending()
    assert it.drain(0)


def test_many_writers_on_a_tiny_pool_all_end() -> None:
    cluster = Cluster("a", "b", "c", "d", "e")
    pool = ThreadPoolExecutor(2)
    it = replicator(cluster, 3, executor=pool)
    ended = threading.Semaphore(0)

    def several(number: int) -> None:
        for index in range(20):
            data = b"%d %d" % (number, index)
            it.write(FILE, 1000 * number + index, data, checksum=sha(data), chunk_size=9, file_size=9, now_ms=1)
        ended.release()

    threads = [threading.Thread(target=several, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert ended.acquire(timeout=60)
    pool.shutdown()
    assert sum(len(node.chunks) for node in cluster.network.nodes.values()) == 16 * 20 * 3


def test_answers_that_lie_about_what_was_stored_are_not_replicas() -> None:
    cluster = Cluster("a", "b", "c")
    first, *others = order(cluster)
    lies = {
        "/store-chunk": json_answer(201, {"node_id": first, "checksum": "0" * 64, "length": 1}),
        "/store-chunks": json_answer(200, {"node_id": first, "stored": 2, "errors": {}}),
    }
    cluster[first].trouble = lambda method, path: lies.get(path)
    assert set(names(write(replicator(cluster)))) == set(others)
