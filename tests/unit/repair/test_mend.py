"""The mender: every outcome, and everything that may happen between two of its steps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from dfs import errors
from dfs.cluster.upkeep import Fence
from dfs.model import AdminState, FileState, NodeStatus
from dfs.repair.mend import Mended, Outcome
from dfs.repair.pace import LEAST_CHUNK, LEAST_MOVED, Pace
from tests.unit.cluster.fakes import sha
from tests.unit.repair.world import Call, Crash, World

WHOLE, MENDED, WAITING, UNRECOVERABLE, GONE = Outcome


def first(world: World, file_id: str, among: str = "abcd") -> str:
    """The node of `among` that placement likes best for the file's chunk 0."""
    order = world.placement.nodes_for(file_id, 0, world.membership.view())
    return next(node.node_id for node in order if node.node_id in among)


def at(name: str, act: Callable[[], Any], *, after: bool = False, node: str = "", times: int = 1) -> Any:
    """A hook that does `act` before (or after) the first calls of that name."""
    left = [times]

    def hook(call: Call, done: bool) -> None:
        if call.name == name and done == after and node in ("", call.node) and left[0]:
            left[0] -= 1
            act()

    return hook


def throw(error: BaseException) -> Callable[[], None]:
    def act() -> None:
        raise error

    return act


def deletion(world: World, file_id: str, purged: bool) -> Callable[[], None]:
    def delete() -> None:
        world.set_state(file_id, FileState.DELETING)
        if purged:
            world.erase(file_id)

    return delete


def check_whole(world: World, key: tuple[str, int]) -> None:
    assert len(world.with_rows(key)) == world.factor
    assert world.with_good(key) == world.with_rows(key)


# --- outcomes ---


def test_a_whole_chunk_is_left_alone() -> None:
    world = World()
    file_id = world.file()
    assert world.mender().mend(file_id, 0) == Mended(WHOLE)
    assert world.mender().mend(file_id, 0, verify=True) == Mended(WHOLE)


def test_a_lost_copy_is_made_again_and_its_row_stays_until_the_node_returns() -> None:
    world = World()
    file_id = world.file()
    world.kill("b")
    target = first(world, file_id, "cd")
    assert world.mender().mend(file_id, 0) == Mended(MENDED, 1, 10)
    assert world.with_rows((file_id, 0)) == "".join(sorted("ab" + target))
    row = world.rows.rows[file_id, 0, target]
    assert (row.replica_type, row.created_at) == ("secondary", 1000)
    assert world.mender().mend(file_id, 0).outcome is WHOLE
    world.revive("b")
    assert world.mender().mend(file_id, 0, trim=False).outcome is WHOLE
    assert world.mender().mend(file_id, 0) == Mended(MENDED, dropped=1)
    check_whole(world, (file_id, 0))
    assert world.with_bytes((file_id, 0)) == world.with_rows((file_id, 0))


def test_a_node_in_maintenance_is_waited_for() -> None:
    world = World()
    file_id = world.file()
    world.kill("b", away=True)
    mended = world.mender().mend(file_id, 0)
    assert (mended.outcome, mended.copied_chunks) == (WAITING, 0)
    assert "waits for b" in mended.reason
    world.revive("b")
    assert world.mender().mend(file_id, 0).outcome is WHOLE


def test_a_copy_too_many_on_a_silent_node_is_waited_for_and_dropped_in_the_end() -> None:
    world = World()
    file_id = world.file()
    world.kill("b")
    assert world.mender().mend(file_id, 0).outcome is MENDED
    world.revive("b")
    world.kill("b", away=True)
    mended = world.mender().mend(file_id, 0)
    assert mended.outcome is WAITING and "may be on b" in mended.reason
    assert world.mender().mend(file_id, 0, trim=False).outcome is WHOLE
    world.revive("b")
    assert world.mender().mend(file_id, 0) == Mended(MENDED, dropped=1)
    check_whole(world, (file_id, 0))


def test_a_node_in_maintenance_that_answers_is_a_source() -> None:
    world = World()
    file_id = world.file()
    world.change("a", admin_state=AdminState.MAINTENANCE, admin_until=10_000)
    world.kill("b")
    assert world.mender().mend(file_id, 0).outcome is MENDED


def test_a_reported_copy_is_healed_where_it_is() -> None:
    world = World()
    for spoil in (world.corrupt, world.lose):
        file_id = world.file()
        spoil((file_id, 0), "b")
        assert world.mender().mend(file_id, 0).outcome is WHOLE  # believed
        assert world.mender().mend(file_id, 0, verify=True) == Mended(MENDED, 1, 10)
        assert world.with_good((file_id, 0)) == "ab"
        assert world.rows.rows[file_id, 0, "b"].replica_type == "primary"


def test_a_bad_copy_on_a_full_node_is_replaced_elsewhere_and_dropped() -> None:
    world = World()
    file_id = world.file()
    world.corrupt((file_id, 0), "b")
    world.change("b", status=NodeStatus.FULL)
    mended = world.mender().mend(file_id, 0, verify=True)
    assert (mended.outcome, mended.copied_chunks, mended.dropped) == (MENDED, 1, 1)
    check_whole(world, (file_id, 0))


def test_an_empty_file_has_one_empty_chunk() -> None:
    world = World()
    file_id = world.file(size=0)
    world.kill("b")
    assert world.mender().mend(file_id, 0) == Mended(MENDED, 1, 0)


def test_a_chunk_of_an_upload_is_copied_but_nothing_of_it_is_dropped() -> None:
    world = World()
    file_id = world.file(FileState.UPLOADING, on="a")
    assert world.mender().mend(file_id, 0).outcome is MENDED
    assert world.mender().mend(world.file(FileState.UPLOADING, on="abc"), 0).outcome is WHOLE
    assert "not been uploaded" in world.mender().mend(world.file(FileState.UPLOADING, on=""), 0).reason
    world.change("a", admin_state=AdminState.DRAINING)
    draining = world.file(FileState.UPLOADING, on="abc")
    mended = world.mender().mend(draining, 0)
    assert (mended.outcome, mended.dropped) == (WAITING, 0)
    world.set_state(draining, FileState.COMMITTED)
    assert world.mender().mend(draining, 0).outcome is MENDED
    assert world.with_rows((draining, 0)) == "bc"


@pytest.mark.parametrize(("size", "told"), [(10, 10), (0, None)])
def test_the_size_of_an_upload_of_unknown_length_is_not_made_up(size: int, told: int | None) -> None:
    world = World()
    file_id = world.file(FileState.UPLOADING, on="a")
    world.rows.files[file_id] = replace(world.rows.files[file_id], size=size)
    sizes = []
    pull = world.calls.pull

    def note(*args: Any, **named: Any) -> None:
        sizes.append(named["file_size"])
        pull(*args, **named)

    world.calls.pull = note  # type: ignore[method-assign]
    assert world.mender().mend(file_id, 0).outcome is MENDED
    assert sizes == [told]


@pytest.mark.parametrize("state", [FileState.DELETING, None])
def test_a_chunk_of_a_file_that_goes_is_gone(state: FileState | None) -> None:
    world = World()
    file_id = world.file(FileState.DELETING, on="a")
    if state is None:
        world.erase(file_id)
    assert world.mender().mend(file_id, 0) == Mended(GONE)


def test_a_chunk_that_the_file_does_not_have_is_gone() -> None:
    world = World()
    assert world.mender().mend(world.file(), 1) == Mended(GONE)


def test_a_file_in_the_trash_is_kept_whole() -> None:
    world = World()
    file_id = world.file(FileState.TRASHED, on="abc")
    assert world.mender().mend(file_id, 0) == Mended(MENDED, dropped=1)


def test_no_good_copy_left_is_said_and_nothing_is_touched() -> None:
    world = World()
    file_id = world.file(on="abc")
    for name in "abc":
        world.corrupt((file_id, 0), name)
    assert world.mender().mend(file_id, 0, verify=True).outcome is UNRECOVERABLE
    assert world.with_bytes((file_id, 0)) == world.with_rows((file_id, 0)) == "abc"
    none = world.file(on="")
    assert world.mender().mend(none, 0).outcome is UNRECOVERABLE


def test_a_bad_copy_with_the_only_good_one_away_waits() -> None:
    world = World()
    file_id = world.file()
    world.corrupt((file_id, 0), "a")
    world.kill("b", away=True)
    assert world.mender().mend(file_id, 0, verify=True).outcome is WAITING


def test_more_copies_than_nodes_is_waited_for() -> None:
    world = World("abc", factor=4)
    mended = world.mender().mend(world.file(), 0)
    assert (mended.outcome, mended.copied_chunks) == (WAITING, 1)
    assert "1 of 4 copies missing" in mended.reason


def test_rows_that_contradict_each_other_are_left_alone() -> None:
    world = World()
    file_id = world.file(on="abc")
    row = world.rows.rows[file_id, 0, "b"]
    world.rows.rows[file_id, 0, "b"] = replace(row, checksum="0" * 64)
    world.kill("c")
    mended = world.mender().mend(file_id, 0, verify=True)
    assert (mended.outcome, mended.copied_chunks) == (WAITING, 0)
    assert "contradict" in mended.reason


def test_other_bytes_under_the_chunks_name_are_kept_aside_not_destroyed() -> None:
    world = World()
    file_id = world.file()
    key = (file_id, 0)
    world.nodes["b"].lose(key)
    world.nodes["b"].keep(key, b"something else")
    mended = world.mender().mend(file_id, 0, verify=True)
    assert (mended.outcome, mended.copied_chunks, mended.dropped) == (MENDED, 1, 1)
    assert world.nodes["b"].kept_aside == [b"something else"]
    check_whole(world, key)


def test_a_target_that_holds_other_bytes_is_passed_over() -> None:
    world = World()
    file_id = world.file(on="a")
    target = first(world, file_id, "bcd")
    world.nodes[target].keep((file_id, 0), b"something else")
    assert world.mender().mend(file_id, 0).outcome is MENDED
    assert target not in world.with_rows((file_id, 0))
    assert world.nodes[target].chunks[file_id, 0] == b"something else"


def test_draining_moves_the_copy_and_drops_it_last() -> None:
    world = World()
    file_id = world.file()
    world.change("a", admin_state=AdminState.DRAINING)
    mended = world.mender().mend(file_id, 0)
    assert (mended.outcome, mended.copied_chunks, mended.dropped) == (MENDED, 1, 1)
    assert "a" not in world.with_bytes((file_id, 0))
    check_whole(world, (file_id, 0))


def test_rows_of_nodes_that_are_gone_are_forgotten_when_the_others_were_read() -> None:
    world = World()
    first_file, second = world.file(), world.file(on="ac")
    world.kill("a")
    world.change("a", admin_state=AdminState.DECOMMISSIONED)
    mended = world.mender().mend(first_file, 0)
    assert (mended.outcome, mended.copied_chunks, mended.forgotten, mended.dropped) == (MENDED, 1, 1, 0)
    world.remove_node("a")
    assert world.mender().mend(second, 0).outcome is MENDED
    for file_id in (first_file, second):
        check_whole(world, (file_id, 0))


def test_rebalancing_moves_one_copy_a_call_and_comes_to_an_end() -> None:
    world = World("abcdef")
    file_id = world.file()
    order = [node.node_id for node in world.placement.nodes_for(file_id, 0, world.membership.view())]
    moves = [world.mender().mend(file_id, 0, rebalance=True) for _ in range(3)]
    assert all(move.copied_chunks == move.dropped <= 1 for move in moves)
    assert moves[-1] == Mended(WHOLE)
    assert set(world.with_rows((file_id, 0))) == set(order[:2])


def test_new_copies_go_to_zones_without_one() -> None:
    world = World(zones=["x", "y", "x", "y"])
    file_id = world.file(on="a")
    assert world.mender().mend(file_id, 0).outcome is MENDED
    assert world.with_rows((file_id, 0)) in ("ab", "ad")


# --- the lease, the pace, the registry ---


def test_without_the_lease_nothing_is_changed() -> None:
    world = World()
    short, surplus = world.file(on="a"), world.file(on="abc")
    world.fence = None
    for file_id in (short, surplus):
        mended = world.mender().mend(file_id, 0)
        assert (mended.outcome, mended.reason) == (WAITING, "the lease is lost")
    assert (world.with_rows((short, 0)), world.with_rows((surplus, 0))) == ("a", "abc")


def test_a_stale_mender_is_stopped_by_the_node_and_drops_nothing() -> None:
    world = World()
    file_id = world.file(on="abc")
    world.hook = at("transact", lambda: [node.obey(Fence("repair", 1, 2)) for node in world.nodes.values()])
    mended = world.mender(1).mend(file_id, 0)
    assert mended.outcome is WAITING and "newer holder" in mended.reason
    assert world.with_bytes((file_id, 0)) == "abc"


def test_a_stale_mender_copies_nothing() -> None:
    world = World()
    file_id = world.file(on="a")
    for node in world.nodes.values():
        node.obey(Fence("repair", 2, 1))
    mended = world.mender(5).mend(file_id, 0)
    assert (mended.outcome, mended.copied_chunks) == (WAITING, 0)
    assert world.with_rows((file_id, 0)) == "a"


def test_a_copy_whose_lease_was_lost_before_its_row_was_there_is_marked() -> None:
    for lost in (None, Fence("repair", 1, 9)):
        world = World()
        file_id = world.file(on="a")
        world.hook = at("add_replicas", lambda world=world, lost=lost: setattr(world, "fence", lost), after=True)
        world.mender().mend(file_id, 0)
        assert (file_id, 0) in world.rows.shorts


def test_a_server_that_stops_takes_no_more_bytes() -> None:
    world = World()
    file_id = world.file(on="a")
    mender = world.mender(pace=Pace(1.0, lambda: 0.0, lambda seconds: True))
    assert mender.mend(file_id, 0).reason == "this server is stopping"
    assert world.with_bytes((file_id, 0)) == "a"


def test_small_chunks_are_not_copied_at_the_rate_of_their_bytes() -> None:
    world = World()
    waits: list[float] = []
    pace = Pace(LEAST_CHUNK, lambda: 0.0, lambda seconds: bool(waits.append(seconds)))
    mender = world.mender(pace=pace)
    for _ in range(4):
        assert mender.mend(world.file(on="a"), 0).outcome is MENDED
    assert waits == [0.0, 0.0, 1.0, 2.0]


def test_a_small_chunk_that_only_moves_waits_longer() -> None:
    world = World()
    waits: list[float] = []
    pace = Pace(LEAST_MOVED, lambda: 0.0, lambda seconds: bool(waits.append(seconds)))
    mender = world.mender(pace=pace)
    files = [world.file(on="ab") for _ in range(3)]
    world.change("a", admin_state=AdminState.DRAINING)
    for file_id in files:
        assert mender.mend(file_id, 0).outcome is MENDED
    assert waits == [0.0, 0.0, 1.0]


def test_an_old_view_of_the_nodes_is_not_acted_on() -> None:
    world = World()
    file_id = world.file(on="a")
    world.membership.read_age = lambda: 61.0  # type: ignore[method-assign]
    assert world.mender().mend(file_id, 0).outcome is WAITING


def test_two_calls_for_one_chunk_do_not_work_side_by_side() -> None:
    world = World()
    file_id = world.file(on="a")
    mender = world.mender()
    inner: list[Mended] = []
    world.hook = at("pull", lambda: inner.append(mender.mend(file_id, 0)))
    assert mender.mend(file_id, 0).outcome is MENDED
    assert inner == [Mended(WAITING, reason="it is being worked on already")]
    assert mender.mend(file_id, 0).outcome is WHOLE


# --- failing nodes ---


def test_a_corrupt_source_is_found_out_and_healed_too() -> None:
    world = World(factor=3)
    file_id = world.file(on="ab")
    world.corrupt((file_id, 0), first(world, file_id, "ab"))
    mended = world.mender().mend(file_id, 0)
    assert (mended.outcome, mended.copied_chunks) == (MENDED, 2)
    check_whole(world, (file_id, 0))


def test_all_sources_corrupt_is_unrecoverable() -> None:
    world = World(factor=3)
    file_id = world.file(on="ab")
    for name in "ab":
        world.corrupt((file_id, 0), name)
    assert world.mender().mend(file_id, 0).outcome is UNRECOVERABLE
    assert world.with_bytes((file_id, 0)) == "ab"


def test_a_source_that_rots_during_the_copy_gives_way_to_another() -> None:
    world = World(factor=3)
    file_id = world.file(on="ab")
    source = first(world, file_id, "ab")
    world.hook = at("pull", lambda: world.corrupt((file_id, 0), source))
    assert world.mender().mend(file_id, 0).outcome is MENDED
    check_whole(world, (file_id, 0))


def test_a_source_that_dies_during_the_copy_gives_way_to_another() -> None:
    world = World(factor=3)
    file_id = world.file(on="ab")
    source = first(world, file_id, "ab")
    world.hook = at("pull", lambda: world.kill(source))
    mended = world.mender().mend(file_id, 0)
    assert mended.copied_chunks >= 1
    assert source not in [info.node_id for info in world.membership.view().writable]
    assert world.mender().mend(file_id, 0, verify=True).outcome in (MENDED, WHOLE)


def test_a_target_cut_off_from_the_source_gives_way_to_another() -> None:
    world = World()
    file_id = world.file(on="a")
    target = first(world, file_id, "bcd")
    world.nodes[target].unreachable.add("a")
    assert world.mender().mend(file_id, 0).outcome is MENDED
    assert target not in world.with_rows((file_id, 0))


@pytest.mark.parametrize("error", [errors.NodeFull("full"), errors.StoreReadOnly("draining")])
def test_a_target_that_takes_nothing_is_told_to_membership(error: errors.DfsError) -> None:
    world = World()
    file_id = world.file(on="a")
    target = first(world, file_id, "bcd")
    world.hook = at("pull", throw(error), node=target)
    assert world.mender().mend(file_id, 0).outcome is MENDED
    member = world.membership.view().get(target)
    assert member is not None and member.refusing == error.code


def test_a_target_that_dies_is_told_to_membership_and_another_is_taken() -> None:
    world = World()
    file_id = world.file(on="a")
    target = first(world, file_id, "bcd")
    world.hook = at("pull", lambda: setattr(world.nodes[target], "up", False), node=target)
    assert world.mender().mend(file_id, 0).outcome is MENDED
    member = world.membership.view().get(target)
    assert member is not None and member.suspect


def test_a_copy_whose_answer_was_lost_is_found_by_reading_back() -> None:
    world = World()
    file_id = world.file(on="a")
    target = first(world, file_id, "bcd")
    world.hook = at("pull", throw(Call("pull", target).fail(done=True)), after=True)
    assert world.mender().mend(file_id, 0) == Mended(MENDED, 1, 10)
    assert target in world.with_rows((file_id, 0))
    member = world.membership.view().get(target)
    assert member is not None and member.healthy


def test_a_copy_that_cannot_be_read_back_gets_no_row() -> None:
    for spoil in ("corrupt", "kill", "lose"):
        world = World()
        file_id = world.file(on="a")
        target = first(world, file_id, "bcd")

        def act(world: World = world, spoil: str = spoil, file_id: str = file_id, target: str = target) -> None:
            if spoil == "kill":
                world.kill(target)
            else:
                getattr(world, spoil)((file_id, 0), target)

        world.hook = at("verify", act, node=target)
        assert world.mender().mend(file_id, 0).outcome is MENDED
        assert target not in world.with_rows((file_id, 0))
        check_whole(world, (file_id, 0))


def test_a_busy_holder_is_believed_to_be_there_and_asked_again_later() -> None:
    world = World()
    file_id = world.file()
    world.hook = at("verify", throw(errors.Busy("too many")), node="b")
    assert world.mender().mend(file_id, 0, verify=True).outcome is WAITING
    assert world.mender().mend(file_id, 0, verify=True).outcome is WHOLE


def test_a_node_that_erased_a_living_file_is_replaced() -> None:
    world = World()
    file_id = world.file()
    world.nodes["b"].erased.add(file_id)
    mended = world.mender().mend(file_id, 0, verify=True)
    assert mended.outcome is MENDED
    assert "b" not in world.with_rows((file_id, 0))


def test_nothing_is_dropped_when_the_copies_that_would_stay_turn_out_bad() -> None:
    world = World()
    file_id = world.file(on="abc")
    for name in "abc":
        if name != "c":
            world.corrupt((file_id, 0), name)
    mended = world.mender().mend(file_id, 0)
    check_whole(world, (file_id, 0))
    assert "c" in world.with_rows((file_id, 0)) and mended.outcome is MENDED


def test_a_lost_answer_to_a_drop_is_asked_again() -> None:
    world = World()
    file_id = world.file(on="abc")
    world.hook = at("drop", throw(Call("drop", "c").fail(done=True)), after=True)
    assert world.mender().mend(file_id, 0) == Mended(MENDED, dropped=1)
    assert world.with_bytes((file_id, 0)) == world.with_rows((file_id, 0))


def test_bytes_that_cannot_be_dropped_are_left_without_a_row() -> None:
    world = World()
    file_id = world.file(on="abc")
    world.hook = at("drop", throw(Call("drop", "c").fail(done=False)), times=2)
    assert world.mender().mend(file_id, 0) == Mended(MENDED, dropped=1)
    assert world.with_bytes((file_id, 0)) == "abc"
    check_whole(world, (file_id, 0))


# --- what others do meanwhile ---


def test_a_chunk_stored_again_between_row_and_bytes_is_marked_and_put_right() -> None:
    world = World()
    file_id = world.file(on="abc")
    key = (file_id, 0)
    dropped = []

    def again() -> None:
        dropped.append(next(name for name in "abc" if name not in world.with_rows(key)))
        world.put(key, dropped[0])

    world.hook = at("drop", again)
    assert world.mender().mend(file_id, 0).outcome is MENDED
    assert key in world.rows.shorts
    world.mender().mend(file_id, 0, verify=True)
    check_whole(world, key)


def test_a_row_that_another_leader_put_meanwhile_is_kept() -> None:
    world = World()
    file_id = world.file(on="a")
    target = first(world, file_id, "bcd")
    world.hook = at("add_replicas", lambda: world.put((file_id, 0), target))
    assert world.mender().mend(file_id, 0).outcome is MENDED
    check_whole(world, (file_id, 0))


def test_a_refused_drop_looks_again() -> None:
    world = World()
    file_id = world.file(on="abc")
    key = (file_id, 0)

    def other() -> None:
        """Another mender has dropped one that was to stay."""
        node = next(node for node in "abc" if node != surplus)
        del world.rows.rows[*key, node]
        world.nodes[node].lose(key)

    order = [node.node_id for node in world.placement.nodes_for(file_id, 0, world.membership.view())]
    surplus = max("abc", key=order.index)
    world.hook = at("transact", other)
    assert world.mender().mend(file_id, 0).outcome is WHOLE
    check_whole(world, key)


@pytest.mark.parametrize("call", ["get_file", "replicas", "pull", "verify", "add_replicas"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("purged", [False, True])
def test_a_file_deleted_at_any_step_of_a_copy_is_gone(call: str, after: bool, purged: bool) -> None:
    world = World()
    file_id = world.file(on="a")
    world.hook = at(call, deletion(world, file_id, purged), after=after)
    mended = world.mender().mend(file_id, 0)
    # A row that was there before: the file is looked at again and nothing is claimed of it.
    assert mended.outcome is GONE
    world.rows.files.pop(file_id, None)
    if call == "add_replicas" and not after:
        assert len(world.with_bytes((file_id, 0))) == (0 if purged else 1)  # the new bytes were taken back


@pytest.mark.parametrize("call", ["get_file", "replicas", "verify", "transact", "drop", "replica"])
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("purged", [False, True])
def test_a_file_deleted_at_any_step_of_a_drop_is_gone(call: str, after: bool, purged: bool) -> None:
    world = World()
    file_id = world.file(on="abc")
    world.hook = at(call, deletion(world, file_id, purged), after=after)
    assert world.mender().mend(file_id, 0).outcome is GONE
    if purged:
        assert not world.with_bytes((file_id, 0))
    elif call in ("get_file", "replicas", "verify") or (call == "transact" and not after):
        assert world.with_rows((file_id, 0)) == "abc"  # left to the eraser


def test_a_copy_that_was_dropped_does_not_count_when_its_row_comes_back() -> None:
    world = World()
    file_id = world.file(on="abc")
    key = (file_id, 0)

    def again() -> None:
        """Its row is put again, and another node fills up, so that its copy would be the next to go."""
        dropped = next(name for name in "abc" if name not in world.with_rows(key))
        world.put(key, dropped)
        world.change(next(name for name in "abc" if name != dropped), status=NodeStatus.FULL)

    world.hook = at("drop", again)
    world.mender().mend(file_id, 0, verify=True)
    check_whole(world, key)


@pytest.mark.parametrize("call", ["replicas", "pull", "verify", "add_replicas", "transact", "drop"])
def test_a_file_moved_trashed_or_restored_meanwhile_is_mended_all_the_same(call: str) -> None:
    for before, then in (
        (FileState.COMMITTED, FileState.TRASHED),
        (FileState.TRASHED, FileState.COMMITTED),
        (FileState.UPLOADING, FileState.COMMITTED),
        (FileState.COMMITTED, FileState.COMMITTED),
    ):
        world = World()
        file_id = world.file(before, on="ab")
        world.change("a", admin_state=AdminState.DRAINING)

        def change(world: World = world, file_id: str = file_id, then: FileState = then) -> None:
            world.rows.files[file_id] = replace(world.rows.files[file_id], state=then, path="elsewhere", version=9)

        world.hook = at(call, change)
        world.mender().mend(file_id, 0)
        world.set_state(file_id, then)
        assert world.mender().mend(file_id, 0).outcome in (WHOLE, MENDED)
        check_whole(world, (file_id, 0))
        assert "a" not in world.with_rows((file_id, 0))


def test_a_refusal_to_take_bytes_back_is_left_to_the_eraser() -> None:
    world = World()
    file_id = world.file(on="a")
    refusals = iter([Call("drop", "x").fail(done=False)])

    def hook(call: Call, after: bool) -> None:
        if call.name == "add_replicas" and not after:
            world.set_state(file_id, FileState.DELETING)
        if call.name == "drop" and not after:
            raise next(refusals)

    world.hook = hook
    assert world.mender().mend(file_id, 0).outcome is GONE
    assert world.with_rows((file_id, 0)) == "a"


# --- metadata ---


@pytest.mark.parametrize("call", ["get_file", "replicas", "add_replicas"])
def test_metadata_that_cannot_be_reached_is_waited_for(call: str) -> None:
    world = World()
    file_id = world.file(on="a")
    world.hook = at(call, throw(errors.Unavailable("away")))
    assert world.mender().mend(file_id, 0) == Mended(WAITING, reason="away")
    assert world.mender().mend(file_id, 0).outcome is MENDED
    check_whole(world, (file_id, 0))


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("after", [False, True])
def test_a_row_whose_answer_is_lost_is_put_again(times: int, after: bool) -> None:
    world = World()
    file_id = world.file(on="a")
    world.hook = at("add_replicas", throw(Call("add_replicas").fail(done=True)), after=after, times=times)
    assert world.mender().mend(file_id, 0).outcome is (MENDED if times < 3 else WAITING)
    assert world.mender().mend(file_id, 0).outcome is (WHOLE if times < 3 or after else MENDED)
    check_whole(world, (file_id, 0))


@pytest.mark.parametrize("times", [2, 3])
@pytest.mark.parametrize("after", [False, True])
def test_a_removal_whose_answer_is_lost_is_made_again_and_no_bytes_go_on_doubt(times: int, after: bool) -> None:
    world = World()
    file_id = world.file(on="abc")
    world.hook = at("transact", throw(Call("transact").fail(done=True)), after=after, times=times)
    assert world.mender().mend(file_id, 0).outcome is (MENDED if times < 3 else WAITING)
    if times == 3:
        assert world.with_bytes((file_id, 0)) == "abc"
    world.mender().mend(file_id, 0)
    check_whole(world, (file_id, 0))


@pytest.mark.parametrize("times", [1, 3])
def test_a_mark_whose_answer_is_lost_is_put_again(times: int) -> None:
    world = World()
    file_id = world.file(on="a")

    def hook(call: Call, after: bool) -> None:
        nonlocal times
        if call.name == "add_replicas" and after:
            world.fence = None
        if call.name == "transact" and not after and times:
            times -= 1
            raise call.fail(done=True)

    world.hook = hook
    lasting = times == 3
    assert world.mender().mend(file_id, 0).outcome is (WAITING if lasting else MENDED)
    assert ((file_id, 0) in world.rows.shorts) is not lasting


# --- broken off, and failing, at every step ---


def _short(world: World) -> str:
    return world.file(on="a")


def _surplus(world: World) -> str:
    return world.file(on="abc")


def _rotten(world: World) -> str:
    file_id = world.file(on="ab")
    world.corrupt((file_id, 0), "b")
    return file_id


def _draining(world: World) -> str:
    file_id = world.file(on="ab")
    world.change("a", admin_state=AdminState.DRAINING)
    return file_id


def _gone(world: World) -> str:
    file_id = world.file(on="abe")
    world.remove_node("e")
    return file_id


STARTS = [_short, _surplus, _rotten, _draining, _gone]


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("how", ["crash", "refused", "lost", "node dies", "lease lost"])
def test_broken_off_at_any_call_and_mended_again_it_ends_whole(
    start: Callable[[World], str], after: bool, how: str
) -> None:
    broken = 0
    for number in range(1, 100):
        world = World("abcde")
        file_id = start(world)
        key = (file_id, 0)
        world.faults = 0
        calls = [0]

        def hook(call: Call, done: bool, world: World = world, calls: list[int] = calls, at: int = number) -> None:
            if done != after:
                return
            calls[0] += 1
            if calls[0] != at:
                return
            if how == "crash":
                raise Crash
            if how in ("refused", "lost"):
                raise call.fail(done=how == "lost")
            if how == "node dies" and call.node:
                world.kill(call.node)
            elif how == "lease lost":
                world.fence = None

        world.hook = hook
        try:
            world.mender().mend(file_id, 0, verify=start is _rotten)
        except Crash:
            pass
        reached = calls[0] >= number
        world.hook = lambda call, after: None
        world.fence = Fence("repair", 1, 2)
        world.faults = 0
        for node in world.nodes.values():
            if node.node_id in world.registry.nodes:
                world.revive(node.node_id)
        last = [world.mender().mend(file_id, 0, verify=True) for _ in range(2)][-1]
        assert last.outcome is WHOLE, (number, last)
        check_whole(world, key)
        if not reached:
            break
        broken += 1
    assert broken >= 4


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("stale", [False, True])
def test_another_mender_at_any_step_does_no_harm(start: Callable[[World], str], stale: bool) -> None:
    """The other one, under a newer lease or the same, does all its work between two calls of the first."""
    for number in range(1, 100):
        world = World("abcde")
        file_id = start(world)
        key = (file_id, 0)
        world.faults = 0
        calls = [0]

        def hook(
            call: Call, done: bool, world: World = world, calls: list[int] = calls, at: int = number, file_id: str = file_id
        ) -> None:
            calls[0] += 1
            if calls[0] == at:
                world.mender(2 if stale else 1).mend(file_id, 0, verify=True)

        world.hook = hook
        world.mender(1).mend(file_id, 0, verify=start is _rotten)
        reached = calls[0] >= number
        world.hook = lambda call, after: None
        assert len(world.with_good(key)) >= 2, number
        last = [world.mender(3).mend(file_id, 0, verify=True) for _ in range(2)][-1]
        assert last.outcome is WHOLE, (number, last)
        check_whole(world, key)
        assert sha(world.bytes_of(key)) == world.rows.rows[*key, world.with_rows(key)[0]].checksum
        if not reached:
            break
