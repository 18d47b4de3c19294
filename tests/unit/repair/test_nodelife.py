"""Deciding on a node and writing it: guards, lost answers, force, plans."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from dfs.cluster.membership import Membership
from dfs.cluster.nodeanswers import NodeFailed
from dfs.cluster.upkeep import UpkeepCalls
from dfs.cluster.view import MemberState, View
from dfs.errors import BadRequest, Busy, Refused
from dfs.metadata.contract import MetadataStore, OutcomeUnknown
from dfs.metadata.sqlite import SqliteStore
from dfs.metadata.steps import PutFile, PutReplica, PutShort
from dfs.model import AdminState, Document, NodeInfo, NodeStatus
from dfs.repair import nodelife, progress
from dfs.repair.nodelife import GUARD, NodeLife, announcing, count_short, understood
from dfs.repair.noderules import MOST_MAINTENANCE_MS, Action
from dfs.repair.progress import Orders, RepairStatus
from tests.support.metadata_records import NOW, a_node, a_record, a_replica

MINUTE = 60_000


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    opened = SqliteStore(str(tmp_path / "metadata.sqlite"))
    opened.create()
    for number in range(1, 5):
        opened.register_node(a_node(f"n{number}", used_bytes=50_000_000, chunks=12))
    report(opened)
    yield opened
    opened.close()


def report(store: MetadataStore, **changes: Any) -> None:
    """As repair's leader does every few seconds."""
    status = RepairStatus(at=NOW - 1000, **changes)
    assert store.write_document(progress.DOCUMENT, status.to_json(), store.read_document(progress.DOCUMENT))


class Life:
    """A NodeLife whose nodes answer but for those in `down`; `told` are the rows announced."""

    def __init__(self, store: Any, *, down: set[str] | None = None, refusing: str | None = None) -> None:
        self.now = NOW
        self.told: list[NodeInfo] = []
        self.down = down or set()
        self.life = NodeLife(
            store,
            factor=2,
            bytes_per_second=1e6,
            view=lambda: View(1, [MemberState(a_node("n2"), True, False, refusing)]),
            probe=lambda node: node.node_id not in self.down,
            changed=self.told.append,
            now_ms=lambda: self.now,
        )


class Between:
    """A store in which something happens before, or instead of the answer to, a write."""

    def __init__(self, store: SqliteStore) -> None:
        self._store = store
        self.before: list[Callable[[], None]] = []
        self.lost: list[bool] = []
        """For each next write: whether it is applied, and its answer lost either way."""

    def set_admin_state(self, *given: Any, **named: Any) -> bool:
        if self.before:
            self.before.pop(0)()
        if self.lost:
            if self.lost.pop(0):
                assert self._store.set_admin_state(*given, **named)
            raise OutcomeUnknown("the answer was lost")
        return self._store.set_admin_state(*given, **named)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)


def row(store: MetadataStore, node_id: str) -> NodeInfo:
    return next(node for node in store.list_nodes() if node.node_id == node_id)


def reasons_of(error: Refused) -> list[str]:
    return list(error.details["reasons"])


def test_a_drain_is_written_and_announced(store: SqliteStore) -> None:
    life = Life(store)
    found = life.life.decide(Action.DRAIN, "n1")
    assert (found.state, found.to, found.changed, found.planned) == ("active", "draining", True, False)
    assert (found.bytes, found.chunks, found.others, found.factor, found.seconds) == (50_000_000, 12, 3, 2, 50.0)
    assert found.room == 3 * 10**12 and found.to_json()["fits"] is True and found.refused == ()
    assert row(store, "n1").admin_state is AdminState.DRAINING and row(store, "n1").admin_at == NOW
    assert [node.node_id for node in life.told] == ["n1"]


def test_asking_for_what_is_writes_nothing(store: SqliteStore) -> None:
    life = Life(store)
    life.life.decide(Action.DRAIN, "n1")
    guard = store.read_document(GUARD)
    found = life.life.decide(Action.DRAIN, "n1")
    assert (found.changed, found.to) == (False, "draining") and len(life.told) == 1
    assert store.set_admin_state(
        row(store, "n1"), AdminState.DRAINED, at=NOW, until=0, guard=guard, guard_name=GUARD
    )
    found = life.life.decide(Action.DRAIN, "n1")
    assert (found.changed, found.state, found.to, found.seconds) == (False, "drained", "drained", None)


def test_maintenance_has_an_end_and_is_extended_by_repeating_it(store: SqliteStore) -> None:
    life = Life(store)
    assert life.life.decide(Action.MAINTENANCE, "n1", for_ms=15 * MINUTE).until == NOW + 15 * MINUTE
    life.now += 10 * MINUTE
    report(store)
    life.now = NOW + 1  # the report is fresh
    life.down = {"n1"}
    found = life.life.decide(Action.MAINTENANCE, "n1", for_ms=30 * MINUTE)
    assert found.changed and row(store, "n1").admin_until == NOW + 1 + 30 * MINUTE
    assert row(store, "n1").state_at(NOW + 31 * MINUTE) is AdminState.ACTIVE


@pytest.mark.parametrize("length", [0, -1, MOST_MAINTENANCE_MS + 1])
def test_maintenance_of_no_or_too_much_time(store: SqliteStore, length: int) -> None:
    with pytest.raises(BadRequest, match="at most 24 hours"):
        Life(store).life.decide(Action.MAINTENANCE, "n1", for_ms=length)


def test_a_maintenance_that_is_over_is_written_as_active(store: SqliteStore) -> None:
    life = Life(store)
    life.life.decide(Action.MAINTENANCE, "n1", for_ms=MINUTE)
    life.now += 2 * MINUTE
    found = life.life.decide(Action.ACTIVATE, "n1")
    assert found.changed and found.state == "active"
    assert row(store, "n1").admin_state is AdminState.ACTIVE and row(store, "n1").admin_until == 0


def test_a_refusal_says_every_reason_and_changes_nothing(store: SqliteStore) -> None:
    life = Life(store, down={"n3"})
    life.life.decide(Action.DRAIN, "n2")
    with pytest.raises(Refused, match="maintenance of n1 is refused") as caught:
        life.life.decide(Action.MAINTENANCE, "n1", for_ms=MINUTE)
    assert [reason.split()[0] for reason in reasons_of(caught.value)] == ["n2", "n3", "without"]
    assert row(store, "n1").admin_state is AdminState.ACTIVE
    with pytest.raises(Refused, match="n1 must not be stopped now"):
        life.life.decide(Action.OK_TO_STOP, "n1")
    with pytest.raises(Refused) as caught:
        life.life.decide(Action.DRAIN, "n9", force=True)
    assert reasons_of(caught.value) == ["there is no node n9 (registered: n1, n2, n3, n4)"]


def test_force_overrides_and_names_the_risks(store: SqliteStore) -> None:
    life = Life(store, down={"n3"})
    found = life.life.decide(Action.MAINTENANCE, "n1", for_ms=MINUTE, force=True)
    assert found.changed and found.refused == () and found.risks[0].startswith("n3 does not answer")
    with pytest.raises(Refused):
        life.life.decide(Action.OK_TO_STOP, "n2", force=True)


def test_a_plan_changes_nothing(store: SqliteStore) -> None:
    life = Life(store, down={"n3"})
    before = [store.list_nodes(), store.read_document(GUARD)]
    drain = life.life.decide(Action.DRAIN, "n1", plan=True)
    assert (drain.planned, drain.changed, drain.to, drain.refused, drain.seconds) == (True, False, "draining", (), 50.0)
    stop = life.life.decide(Action.MAINTENANCE, "n1", for_ms=MINUTE, plan=True)
    assert len(stop.refused) == 1 and stop.risks == ()
    forced = life.life.decide(Action.MAINTENANCE, "n1", for_ms=MINUTE, plan=True, force=True)
    assert forced.refused == () and forced.risks == stop.refused
    assert life.life.decide(Action.DRAIN, "n9", plan=True).refused
    assert life.life.repair_now("n3", plan=True).seconds == 50.0
    assert [store.list_nodes(), store.read_document(GUARD)] == before and not life.told
    assert store.read_document(progress.ORDERS) is None


def test_ok_to_stop_changes_nothing(store: SqliteStore) -> None:
    found = Life(store).life.decide(Action.OK_TO_STOP, "n1")
    assert (found.changed, found.to, found.others) == (False, "active", 3)
    assert store.read_document(GUARD) is None


def test_nodes_that_refuse_or_are_full_take_no_chunks(store: SqliteStore) -> None:
    assert Life(store, refusing="node_full").life.decide(Action.OK_TO_STOP, "n1").others == 2
    store.heartbeat(replace(row(store, "n3"), status=NodeStatus.FULL))
    assert Life(store).life.decide(Action.OK_TO_STOP, "n1").others == 2


def test_short_chunks_are_counted_up_to_a_bound(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    assert count_short(store) == (0, False)
    records = [a_record(f"p{number}") for number in range(8)]
    store.transact([*map(PutFile, records), *(PutShort(record.file_id, 0, NOW) for record in records)])
    assert count_short(store) == (8, False)
    monkeypatch.setattr(nodelife, "_SHORT_PAGE", 1)
    count, more = count_short(store)
    assert more and 0 < count <= 8
    with pytest.raises(Refused) as caught:
        Life(store).life.decide(Action.OK_TO_STOP, "n1")
    assert "short of a copy or reported bad: at least" in reasons_of(caught.value)[0]


def test_decommissioning_counts_the_rows_at_stake(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    record = a_record()
    rows = [PutReplica(a_replica(record.file_id, index)) for index in range(7)]
    store.transact([PutFile(record), *rows])
    monkeypatch.setattr(nodelife, "_PAGE", 3)
    life = Life(store)
    with pytest.raises(Refused) as caught:
        life.life.decide(Action.DECOMMISSION, "n1")
    assert "n1 is recorded to hold 7 chunks" in reasons_of(caught.value)[1]
    monkeypatch.setattr(nodelife, "_MOST_COUNTED", 6)
    found = life.life.decide(Action.DECOMMISSION, "n1", force=True)
    assert found.changed and "at least 6 chunks" in found.risks[1] and found.seconds == 50.0
    assert row(store, "n1").admin_state is AdminState.DECOMMISSIONED
    assert life.life.decide(Action.ACTIVATE, "n1", force=True).to == "active"


def test_a_change_by_another_operator_is_looked_at_before_anything_is_granted(store: SqliteStore) -> None:
    between = Between(store)
    other = Life(store)
    between.before = [lambda: cast(None, other.life.decide(Action.MAINTENANCE, "n2", for_ms=MINUTE))]
    with pytest.raises(Refused) as caught:
        Life(between).life.decide(Action.MAINTENANCE, "n1", for_ms=MINUTE)
    assert reasons_of(caught.value) == ["n2 is in maintenance: one node at a time"]


def test_operators_who_never_get_through(store: SqliteStore) -> None:
    between = Between(store)
    other = Life(store)

    def meddle() -> None:
        to = Action.ACTIVATE if row(store, "n2").admin_state is AdminState.DRAINING else Action.DRAIN
        other.life.decide(to, "n2", force=True)

    between.before = [meddle] * 8
    with pytest.raises(Busy):
        Life(between).life.decide(Action.DRAIN, "n1", force=True)


@pytest.mark.parametrize("applied", [True, False])
def test_a_lost_answer_is_resolved_by_the_row(store: SqliteStore, applied: bool) -> None:
    between = Between(store)
    between.lost = [applied]
    life = Life(between)
    found = life.life.decide(Action.MAINTENANCE, "n1", for_ms=MINUTE)
    assert found.changed and len(life.told) == 1
    guard = store.read_document(GUARD)
    assert guard is not None and guard.version == 1
    assert row(store, "n1").admin_until == NOW + MINUTE


def test_a_refusal_after_a_lost_answer_lets_no_late_write_through(store: SqliteStore) -> None:
    """The first write may still be on its way when the second look finds a reason against it."""
    between = Between(store)
    late: list[Callable[[], bool]] = []
    seen, guard = row(store, "n1"), store.read_document(GUARD)

    def lose() -> None:
        late.append(
            lambda: store.set_admin_state(
                seen, AdminState.MAINTENANCE, at=NOW, until=NOW + MINUTE, guard=guard, guard_name=GUARD
            )
        )
        report(store, unrecoverable=1)

    between.before, between.lost = [lose], [False]
    with pytest.raises(Refused):
        Life(between).life.decide(Action.MAINTENANCE, "n1", for_ms=MINUTE)
    assert late[0]() is False


def test_fencing_whose_own_answer_is_lost_is_tried_again(store: SqliteStore, monkeypatch: pytest.MonkeyPatch) -> None:
    between = Between(store)
    between.before, between.lost = [lambda: report(store, unrecoverable=1)], [False]
    write, lost = store.write_document, [1]

    def once_lost(name: str, value: dict[str, Any], seen: Document | None) -> Document | None:
        if name == GUARD and lost.pop():
            lost.append(0)
            raise OutcomeUnknown("lost")
        return write(name, value, seen)

    monkeypatch.setattr(store, "write_document", once_lost)
    with pytest.raises(Refused):
        Life(between).life.decide(Action.MAINTENANCE, "n1", for_ms=MINUTE)
    assert store.read_document(GUARD) is not None


def test_of_many_operators_at_once_one_is_granted_maintenance(store: SqliteStore) -> None:
    barrier = threading.Barrier(4)

    def ask(node_id: str) -> bool:
        life = Life(store)
        barrier.wait(30)
        try:
            return life.life.decide(Action.MAINTENANCE, node_id, for_ms=MINUTE).changed
        except Refused:
            return False

    with ThreadPoolExecutor(4) as pool:
        granted = list(pool.map(ask, ["n1", "n2", "n3", "n4"]))
    assert granted.count(True) == 1
    states = [node.admin_state for node in store.list_nodes()]
    assert states.count(AdminState.MAINTENANCE) == 1


def test_repair_now_is_an_order(store: SqliteStore) -> None:
    life = Life(store, down={"n3"})
    assert life.life.repair_now("n3").changed
    assert not life.life.repair_now("n3").changed
    assert progress.load_orders(store) == Orders(repair_now={"n3": NOW})
    with pytest.raises(Refused):
        life.life.repair_now("n1")


def test_what_is_repaired_is_not_ordered_again(store: SqliteStore) -> None:
    report(store, repaired=("n3",))
    assert not Life(store, down={"n3"}).life.repair_now("n3").changed
    assert progress.load_orders(store) == Orders()


def test_a_report_of_a_later_release_promises_nothing(store: SqliteStore) -> None:
    assert store.write_document(
        progress.DOCUMENT, {"at": NOW, "tours": [{"kind": "new"}]}, store.read_document(progress.DOCUMENT)
    )
    assert understood(progress.load, store) is None
    with pytest.raises(Refused) as caught:
        Life(store).life.decide(Action.OK_TO_STOP, "n1")
    assert "repair has not reported yet" in reasons_of(caught.value)[0]


@pytest.mark.parametrize("fails", [False, True])
def test_announcing_a_change(fails: bool) -> None:
    happened: list[str] = []

    class Upkeep:
        def look(self, node: NodeInfo, *, deadline: object) -> str:
            happened.append(node.node_id)
            if fails:
                raise NodeFailed(node.node_id, "refused", sent=False)
            return "draining"

    class View2:
        def refresh(self) -> None:
            happened.append("refreshed")

    announcing(cast(Membership, View2()), cast(UpkeepCalls, Upkeep()))(a_node("n1"))
    assert happened == ["n1", "refreshed"]
