"""What every `MetadataStore` does: one suite, run on SQLite and on DynamoDB (moto)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from dfs import METADATA_FORMAT
from dfs.errors import StartError, Unavailable
from dfs.metadata import open_metadata
from dfs.metadata.contract import GcKind, MetadataStore, NodeConflict, StepsRefused
from dfs.metadata.operations import head_of
from dfs.metadata.steps import (
    MAX_STEPS,
    ChangeFile,
    CheckFile,
    CheckReplica,
    PutFile,
    PutHead,
    PutOperation,
    PutReplica,
    PutShort,
    RemoveFile,
    RemoveHead,
    RemoveReplica,
    RemoveShort,
    Step,
)
from dfs.model import AdminState, Bucket, FileState, Head, Lease, NodeStatus, Retired, new_file_id
from dfs.settings import CommonSettings
from tests.support.metadata_records import NOW, a_node, a_record, a_replica, put

ANY = frozenset(FileState)
UPLOADING = frozenset({FileState.UPLOADING})
COMMITTED = frozenset({FileState.COMMITTED})


def refused(store: MetadataStore, *steps: Step) -> None:
    with pytest.raises(StepsRefused):
        store.transact(steps)


# --- cluster -----------------------------------------------------------------------------------------


def test_before_create_the_error_names_the_setting_and_the_command(bare: MetadataStore) -> None:
    with pytest.raises(StartError, match=r"(DFS_METADATA_URL|NODE_REGISTRY_TABLE).*create-tables"):
        bare.cluster_info()
    with pytest.raises(Unavailable, match="create-tables"):
        bare.get_file(new_file_id())
    with pytest.raises(Unavailable, match="create-tables"):
        bare.transact([PutFile(a_record())])
    with pytest.raises(Unavailable, match="create-tables"):
        bare.heartbeat(a_node())
    with pytest.raises(Unavailable, match="create-tables"):
        bare.set_admin_state(a_node(), AdminState.ACTIVE, at=NOW, until=0, guard=None, guard_name="nodes")
    with pytest.raises(Unavailable, match="create-tables"):
        bare.forget_node(a_node())
    with pytest.raises(Unavailable, match="create-tables"):
        bare.read_document("nodes")
    with pytest.raises(Unavailable, match="create-tables"):
        bare.write_document("nodes", {}, None)
    with pytest.raises(Unavailable, match="create-tables"):
        list(bare.scan_rows())
    with pytest.raises(Unavailable, match="create-tables"):
        bare.put_bucket(Bucket("logs", NOW))
    with pytest.raises(Unavailable, match="create-tables"):
        bare.list_nodes()


def test_create_is_idempotent_and_keeps_the_identity(bare: MetadataStore) -> None:
    first = bare.create()
    assert (first.generation, first.format) == (1, METADATA_FORMAT)
    assert bare.create() == first == bare.cluster_info()
    assert [bucket.name for bucket in bare.list_buckets()] == ["default", "uploads"]
    bare.ping()


def test_several_creates_at_once_agree(settings: CommonSettings) -> None:
    stores = [open_metadata(settings) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda one: one.create(protect=False), stores))
    assert len(set(found)) == 1
    for one in stores:
        one.close()


# --- registry ----------------------------------------------------------------------------------------


def test_registering_keeps_what_the_operator_set_and_refuses_another_disk(store: MetadataStore) -> None:
    node = a_node(admin_state=AdminState.DRAINING)
    assert store.register_node(node) == node
    again = a_node(boot_id="boot-2", port=9000, zone=None, instance_id="i-1", admin_state=AdminState.ACTIVE)
    stored = store.register_node(again)
    assert stored == replace(again, admin_state=AdminState.DRAINING)
    assert store.list_nodes() == [stored]
    with pytest.raises(NodeConflict, match="another disk") as conflict:
        store.register_node(a_node(disk_id="other"))
    assert conflict.value.current == stored


def test_a_heartbeat_changes_only_what_the_node_reports(store: MetadataStore) -> None:
    node = a_node(admin_state=AdminState.MAINTENANCE)
    store.register_node(node)
    beat = replace(
        node,
        address="10.9.9.9",
        status=NodeStatus.FULL,
        heartbeat_seq=2,
        heartbeat_ts=NOW + 5,
        free_bytes=1,
        used_bytes=2,
        capacity_bytes=3,
        chunks=4,
        admin_state=AdminState.ACTIVE,
    )
    expected = replace(beat, address=node.address, admin_state=AdminState.MAINTENANCE)
    assert store.heartbeat(beat) == expected
    assert store.list_nodes() == [expected]


def test_a_heartbeat_of_an_older_boot_or_an_unknown_node_is_refused(store: MetadataStore) -> None:
    with pytest.raises(NodeConflict) as unknown:
        store.heartbeat(a_node())
    assert unknown.value.current is None
    newer = store.register_node(a_node(boot_id="boot-2"))
    with pytest.raises(NodeConflict) as older:
        store.heartbeat(a_node(boot_id="boot-1"))
    assert older.value.current == newer


def test_nodes_are_listed_by_id_without_leases_and_identity(store: MetadataStore) -> None:
    store.write_lease(Lease("eraser", "me", 1, 1), None)
    for name in ("n3", "n1", "n2"):
        store.register_node(a_node(name))
    assert [node.node_id for node in store.list_nodes()] == ["n1", "n2", "n3"]


def test_a_lease_is_compared_and_set(store: MetadataStore) -> None:
    first, second = Lease("eraser", "a", 1, 1), Lease("eraser", "b", 2, 2)
    assert store.read_lease("eraser") is None
    assert store.write_lease(first, None)
    assert not store.write_lease(second, None)
    assert not store.write_lease(second, replace(first, beat=9))
    assert store.read_lease("eraser") == first
    assert store.write_lease(second, first)
    assert store.read_lease("eraser") == second


def test_buckets(store: MetadataStore) -> None:
    assert store.put_bucket(Bucket("logs", NOW))
    assert not store.put_bucket(Bucket("logs", NOW + 1))
    assert store.has_bucket("logs") and not store.has_bucket("log")
    assert [bucket.name for bucket in store.list_buckets()] == ["default", "logs", "uploads"]
    assert Bucket("logs", NOW) in store.list_buckets()


# --- steps -------------------------------------------------------------------------------------------


def test_a_file_record_is_put_once_and_read_back_whole(store: MetadataStore) -> None:
    record = a_record("ö/ 日本/🙂", sha256=None, content_type="", filename="", origin="default/x", modified=7)
    store.transact([PutFile(record)])
    assert store.get_file(record.file_id) == record
    refused(store, PutFile(record))
    assert store.get_file(new_file_id()) is None


def test_changing_a_file_is_conditional_on_state_version_and_touch(store: MetadataStore) -> None:
    record = a_record(version=5)
    change = {"size": 77, "sha256": None}
    refused(store, ChangeFile(record.file_id, ANY, change))
    store.transact([PutFile(record)])
    refused(store, ChangeFile(record.file_id, COMMITTED, change))
    refused(store, ChangeFile(record.file_id, UPLOADING, change, version=4))
    refused(store, ChangeFile(record.file_id, UPLOADING, change, touched_at=NOW + 1))
    assert store.get_file(record.file_id) == record
    store.transact([ChangeFile(record.file_id, UPLOADING, change, version=5, touched_at=NOW)])
    assert store.get_file(record.file_id) == replace(record, size=77, sha256=None)


def test_checks_and_removals_of_files(store: MetadataStore) -> None:
    record, other = a_record(), a_record()
    store.transact([PutFile(record)])
    refused(store, PutFile(other), CheckFile(record.file_id, COMMITTED))
    refused(store, PutFile(other), CheckFile(new_file_id(), ANY))
    assert store.get_file(other.file_id) is None
    store.transact([PutFile(other), CheckFile(record.file_id, UPLOADING)])
    refused(store, RemoveFile(record.file_id, COMMITTED))
    store.transact([RemoveFile(record.file_id, UPLOADING)])
    refused(store, RemoveFile(record.file_id, ANY))
    assert store.get_file(record.file_id) is None


def test_heads_change_only_from_what_was_seen(store: MetadataStore) -> None:
    one, two = head_of(a_record("p", version=1)), head_of(a_record("p", version=2, sha256=None))
    assert store.get_head("default", "p") is None
    refused(store, RemoveHead(one))
    refused(store, PutHead(two, seen=one))
    store.transact([PutHead(one, seen=None)])
    assert store.get_head("default", "p") == one
    refused(store, PutHead(two, seen=None))
    refused(store, PutHead(two, seen=replace(one, version=9)))
    refused(store, PutHead(two, seen=replace(one, file_id=new_file_id())))
    store.transact([PutHead(two, seen=one)])
    assert store.get_head("default", "p") == two
    refused(store, RemoveHead(one))
    store.transact([RemoveHead(two)])
    assert store.get_head("default", "p") is None


def test_a_refused_transaction_changes_nothing(store: MetadataStore) -> None:
    record, replica = a_record(), a_replica(new_file_id())
    head = head_of(record)
    steps: list[Step] = [
        PutReplica(replica),
        PutShort(replica.file_id, 0, NOW),
        PutFile(record),
        PutOperation("op-1", {}, NOW),
        RemoveHead(head),
    ]
    refused(store, *steps)
    assert store.get_file(record.file_id) is None
    assert store.operation("op-1") is None
    assert list(store.replicas(replica.file_id)) == []


def test_a_transaction_on_the_head_as_it_is(store: MetadataStore) -> None:
    first, second = head_of(a_record("p", version=1)), head_of(a_record("p", version=2))
    seen: list[Head | None] = []

    def put_over(head: Head) -> Callable[[Head | None], list[Step]]:
        def build(found: Head | None) -> list[Step]:
            seen.append(found)
            return [PutHead(head, found)]

        return build

    store.transact_on("default", "p", put_over(first))
    store.transact_on("default", "p", put_over(second))
    assert seen == [None, first]
    assert store.get_head("default", "p") == second

    def refuse(found: Head | None) -> list[Step]:
        assert found == second
        raise KeyError("no")

    with pytest.raises(KeyError, match="no"):
        store.transact_on("default", "p", refuse)
    with pytest.raises(StepsRefused):
        store.transact_on("default", "p", lambda found: [PutHead(first, None)])
    with pytest.raises(ValueError, match="1 to 100 steps"):
        store.transact_on("default", "p", lambda found: [])
    assert store.get_head("default", "p") == second


def test_too_many_steps_and_an_item_named_twice_are_bugs(store: MetadataStore) -> None:
    record = a_record()
    for steps in (
        [],
        [PutReplica(a_replica(record.file_id, index)) for index in range(MAX_STEPS + 1)],
        [PutFile(record), CheckFile(record.file_id, ANY)],
        [ChangeFile(record.file_id, ANY, {})],
        [ChangeFile(record.file_id, ANY, {"no_such_field": 1})],
    ):
        with pytest.raises(ValueError):
            store.transact(steps)


def test_a_transaction_of_the_most_steps(store: MetadataStore) -> None:
    file_id = new_file_id()
    rows = [a_replica(file_id, index) for index in range(MAX_STEPS)]
    store.transact([PutReplica(row) for row in rows])
    assert list(store.replicas(file_id)) == rows


def test_operations_are_recorded_once_and_forgotten(store: MetadataStore) -> None:
    result = {"op": "move", "head": {"path": "ü", "version": 3}, "replaced": None}
    store.transact([PutOperation("op-1", result, NOW)])
    refused(store, PutOperation("op-1", {}, NOW))
    assert store.operation("op-1") == result
    store.transact([PutOperation(f"many-{number}", {}, NOW) for number in range(60)])
    store.forget_operations(["op-1", "op-1", "absent", *(f"many-{number}" for number in range(60))])
    assert store.operation("op-1") is None and store.operation("many-59") is None
    store.forget_operations([])


# --- replicas ----------------------------------------------------------------------------------------


def test_replica_rows_are_put_checked_and_removed(store: MetadataStore) -> None:
    row = a_replica(new_file_id(), 3, "n1")
    check = CheckReplica(row.file_id, 3, "n1")
    refused(store, check)
    store.transact([PutReplica(row)])
    store.transact([PutReplica(replace(row, created_at=NOW + 1))])
    assert store.replica(row.file_id, 3, "n1") == replace(row, created_at=NOW + 1)
    assert store.replica(row.file_id, 3, "n2") is None
    store.transact([check, RemoveReplica(row.file_id, 4, "n1")])
    store.transact([RemoveReplica(row.file_id, 3, "n1")])
    assert store.replica(row.file_id, 3, "n1") is None


@pytest.mark.parametrize("state", [FileState.UPLOADING, FileState.COMMITTED, FileState.TRASHED])
def test_rows_are_added_to_files_that_are_kept(store: MetadataStore, state: FileState) -> None:
    record = a_record(state=state, version=1)
    store.transact([PutFile(record)])
    row = a_replica(record.file_id)
    store.add_replicas(record.file_id, [row, row], [PutShort(record.file_id, 0, NOW)])
    store.add_replicas(record.file_id, [])
    assert list(store.replicas(record.file_id)) == [row]


def test_rows_are_not_added_to_files_that_go_or_are_gone(store: MetadataStore) -> None:
    record = a_record(state=FileState.DELETING)
    store.transact([PutFile(record)])
    for file_id in (record.file_id, new_file_id()):
        with pytest.raises(StepsRefused):
            store.add_replicas(file_id, [a_replica(file_id)])
        assert list(store.replicas(file_id)) == []


def test_many_rows_are_read_in_order_and_in_ranges(store: MetadataStore) -> None:
    record = a_record()
    store.transact([PutFile(record)])
    rows = [a_replica(record.file_id, index, node) for index in range(620) for node in ("n1", "n2")]
    store.add_replicas(record.file_id, rows[::-1])
    assert list(store.replicas(record.file_id)) == rows
    assert list(store.replicas(record.file_id, 100, 101)) == rows[200:204]
    assert list(store.replicas(record.file_id, 619)) == rows[-2:]
    assert list(store.replicas(record.file_id, 620)) == list(store.replicas(record.file_id, 5, 4)) == []


def test_rows_added_from_many_threads_are_all_there(store: MetadataStore) -> None:
    record = a_record()
    store.transact([PutFile(record)])
    rows = [a_replica(record.file_id, index) for index in range(64)]
    start = threading.Barrier(16)

    def add(first: int) -> None:
        start.wait()
        for row in rows[first::16]:
            store.add_replicas(record.file_id, [row], [PutShort(record.file_id, row.chunk_index, NOW)])

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(add, range(16)))
    assert list(store.replicas(record.file_id)) == rows


# --- listing -----------------------------------------------------------------------------------------


def scan(store: MetadataStore, start: str, inclusive: bool, end: str | None, limit: int = 100) -> list[str]:
    return [
        h.path for h in store.scan_heads("default", start=start, inclusive=inclusive, end=end, limit=limit)
    ]


def test_heads_are_scanned_in_byte_order_within_bounds(store: MetadataStore) -> None:
    paths = ["a", "a/b", "a0", "b", "Z", "é", "日本", "\ud7ff", "\ue000", "🙂", "a" * 1024]
    for path in paths:
        store.transact([PutHead(head_of(a_record(path)), None)])
    store.transact([PutHead(head_of(a_record("a", bucket="uploads")), None)])
    ordered = sorted(paths, key=str.encode)
    assert scan(store, "", True, None) == ordered == scan(store, "", False, None)
    assert scan(store, "a", True, "a0") == ["a", "a/b"]
    assert scan(store, "a", False, "a0") == ["a/b"]
    assert scan(store, "a", False, None, limit=2) == ["a/b", "a0"]
    assert scan(store, "", True, "a", limit=5) == ["Z"]
    assert scan(store, "b", True, "b") == scan(store, "c", True, "b") == []
    assert scan(store, "🙂", True, None) == ["🙂"]
    longest = "a" * 1024
    assert scan(store, longest, True, longest + "a") == [longest]
    assert scan(store, longest + "a", True, "b") == []
    assert scan(store, "a" * 1023 + "é", False, "c") == ["b"]
    assert scan(store, "", True, "a" * 1025) == ["Z", "a", "a/b", "a0", longest]


# --- gc index ----------------------------------------------------------------------------------------


def gc_ids(store: MetadataStore, kind: GcKind, before: int | None = None) -> list[str]:
    return sorted(
        entry.id
        for partition in store.gc_partitions(kind)
        for entry in store.gc_entries(partition, before=before)
    )


def test_files_stand_in_the_index_by_their_state(store: MetadataStore) -> None:
    record = a_record("p")
    store.transact([PutFile(record)])
    assert gc_ids(store, GcKind.UPLOADING) == [record.file_id]
    assert gc_ids(store, GcKind.UPLOADING, before=NOW) == []
    assert gc_ids(store, GcKind.UPLOADING, before=NOW + 1) == [record.file_id]
    store.transact([ChangeFile(record.file_id, UPLOADING, {"touched_at": NOW + 50})])
    assert gc_ids(store, GcKind.UPLOADING, before=NOW + 50) == []
    store.transact([ChangeFile(record.file_id, UPLOADING, {"state": FileState.COMMITTED, "version": 9})])
    assert gc_ids(store, GcKind.UPLOADING) == []
    trash = {
        "state": FileState.TRASHED,
        "bucket": "default",
        "path": "p",
        "version": 9,
        "touched_at": NOW,
        "retired": "deleted",
        "size": 77,
    }
    store.transact([ChangeFile(record.file_id, COMMITTED, trash)])
    (partition,) = [name for name in store.gc_partitions(GcKind.TRASHED) if name.endswith("default")]
    (entry,) = store.gc_entries(partition, before=1)
    assert (entry.id, entry.path, entry.version) == (record.file_id, "p", 9)
    assert (entry.at, entry.retired, entry.size) == (NOW, Retired.DELETED, 77)
    kept = store.get_file(record.file_id)
    assert kept is not None and kept.retired == Retired.DELETED
    gone = {"state": FileState.DELETING, "touched_at": NOW + 7}
    store.transact([ChangeFile(record.file_id, frozenset({FileState.TRASHED}), gone)])
    assert gc_ids(store, GcKind.TRASHED) == []
    assert gc_ids(store, GcKind.DELETING) == [record.file_id]
    store.transact([RemoveFile(record.file_id, frozenset({FileState.DELETING}))])
    assert gc_ids(store, GcKind.DELETING) == []


def test_short_marks_and_operations_stand_in_the_index(store: MetadataStore) -> None:
    file_id = new_file_id()
    store.transact([PutShort(file_id, 4, NOW), PutOperation("op-1", {}, NOW)])
    store.transact([PutShort(file_id, 4, NOW + 1)])
    entries = [e for name in store.gc_partitions(GcKind.SHORT) for e in store.gc_entries(name)]
    assert [(e.id, e.chunk_index, e.at) for e in entries] == [(file_id, 4, NOW + 1)]
    assert gc_ids(store, GcKind.OPERATION) == ["op-1"]
    refused(store, RemoveShort(file_id, 4, NOW))
    refused(store, RemoveShort(file_id, 5, NOW))
    store.transact([RemoveShort(file_id, 4, NOW + 1), RemoveShort(file_id, 5)])
    store.forget_operations(["op-1"])
    assert gc_ids(store, GcKind.SHORT) == gc_ids(store, GcKind.OPERATION) == []


def test_the_trash_is_paged_by_path_and_version_even_for_the_longest_paths(store: MetadataStore) -> None:
    long = "é" * 511 + "x/"
    paths = ["b", "a", "a/b", long[:-1] + "1", long[:-1] + "2"]
    for path in paths:
        for version in (2, 10):
            record = a_record(path, state=FileState.TRASHED, version=version)
            store.transact([PutFile(record)])
    entries, after = [], None
    while page := store.gc_entries("trashed#default", after=after, limit=3):
        entries += page
        after = page[-1].key
    assert len({entry.id for entry in entries}) == len(entries) == 10
    short = [(entry.path, entry.version) for entry in entries if entry.path is not None]
    assert short == [(path, version) for path in ("a", "a/b", "b") for version in (2, 10)]
    for entry in entries[6:]:
        stored = store.get_file(entry.id)
        assert stored is not None and stored.path in paths[3:]


def test_index_pages_with_both_bounds(store: MetadataStore) -> None:
    for number in range(40):
        store.transact([PutOperation(f"op-{number}", {}, NOW + number % 4)])
    found = []
    for partition in store.gc_partitions(GcKind.OPERATION):
        after: str | None = None
        while page := store.gc_entries(partition, after=after, before=NOW + 2, limit=1):
            found.append(page[0].id)
            after = page[0].key
        assert store.gc_entries(partition, after="9", before=NOW) == []
    assert sorted(found) == sorted(f"op-{number}" for number in range(40) if number % 4 < 2)


def test_chunks_of_a_node_are_paged(store: MetadataStore) -> None:
    record = a_record()
    store.transact([PutFile(record)])
    rows = [a_replica(record.file_id, index, node) for index in range(25) for node in ("n1", "n2")]
    store.add_replicas(record.file_id, rows)
    found: list[tuple[str, int]] = []
    after: tuple[str, int] | None = None
    while page := store.node_chunks("n1", after=after, limit=10):
        found += page
        after = page[-1]
    assert sorted(found) == [(record.file_id, index) for index in range(25)]
    assert store.node_chunks("n3") == []


# --- concurrency -------------------------------------------------------------------------------------


def test_of_concurrent_transactions_on_one_head_one_is_applied(store: MetadataStore) -> None:
    start = threading.Barrier(8)
    won: list[Head] = []

    def attempt(number: int) -> None:
        head = head_of(a_record("contended", version=number))
        start.wait()
        try:
            store.transact([PutHead(head, None)])
            won.append(head)
        except StepsRefused:
            pass

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(attempt, range(8)))
    assert [store.get_head("default", "contended")] == won


def test_two_stores_on_one_place_see_each_other_at_once(
    store: MetadataStore, settings: CommonSettings
) -> None:
    other = open_metadata(settings)
    try:
        for number in range(5):
            done = put(store, f"p/{number}")
            assert other.get_head("default", f"p/{number}") == done.head
            done = put(other, f"p/{number}")
            assert store.get_head("default", f"p/{number}") == done.head
    finally:
        other.close()
