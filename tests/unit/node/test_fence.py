"""dfs.node.fence: the highest fence of each lease, kept over restarts."""

from __future__ import annotations

import errno
import json

import pytest

from dfs.errors import BadRequest, Fenced
from dfs.node.fence import MOST_NAMES, Fences
from dfs.wire.message import Headers
from tests.support.disk import Faults, SimDisk

PATH = "/disk/fences.json"


def fences(disk: SimDisk) -> Fences:
    return Fences(disk, "/disk")


def check(book: Fences, *values: str) -> None:
    book.check(Headers([("X-Dfs-Fence", value) for value in values]))


def test_a_lower_fence_is_refused_an_equal_or_higher_one_is_not() -> None:
    book = fences(SimDisk())
    for value in ("repair 1 5", "repair 1 5", "repair 1 7", "repair 2 1", "audit 1 1"):
        check(book, value)
    for value in ("repair 2 0", "repair 1 9", "repair 0 99", "audit 0 9"):
        with pytest.raises(Fenced, match="is with somebody else since"):
            check(book, value)
    check(book)


def test_numbers_are_compared_as_numbers() -> None:
    book = fences(SimDisk())
    check(book, "repair 1 9")
    check(book, "repair 1 10")
    check(book, "repair 10 1")


@pytest.mark.parametrize(
    "value", ["", "repair", "repair 1", "repair 1 2 3", "repair -1 2", "repair 1 x", "Repair 1 2", "repair  1 2", "re pair 1 2"]
)
def test_a_malformed_fence_is_a_bad_request(value: str) -> None:
    with pytest.raises(BadRequest, match="X-Dfs-Fence must be NAME GENERATION NUMBER"):
        check(fences(SimDisk()), value)


def test_a_repeated_header_is_a_bad_request() -> None:
    with pytest.raises(BadRequest, match="comes 2 times"):
        check(fences(SimDisk()), "repair 1 2", "repair 1 3")


def test_only_so_many_leases_are_remembered() -> None:
    book = fences(SimDisk())
    for number in range(MOST_NAMES):
        check(book, f"lease{number} 1 1")
    with pytest.raises(BadRequest, match="more than 64 leases"):
        check(book, "another 1 1")
    check(book, "lease0 1 2")


def test_a_fence_survives_a_restart() -> None:
    disk = SimDisk()
    check(fences(disk), "repair 3 4")
    again = fences(disk)
    with pytest.raises(Fenced):
        check(again, "repair 3 3")
    check(again, "repair 3 4")
    assert json.loads(disk.contents()[PATH])["leases"] == {"repair": [3, 4]}


def test_the_file_is_written_only_for_a_new_height_and_synced() -> None:
    disk = SimDisk()
    book = fences(disk)
    check(book, "repair 1 1")
    steps = [event[0] for event in disk.trace]
    assert steps == ["create", "write", "sync", "rename", "syncdir"]
    check(book, "repair 1 1")
    assert len(disk.trace) == 5


def test_a_full_disk_refuses_nothing_and_the_fence_holds_in_memory() -> None:
    disk = SimDisk()
    book = fences(disk)
    check(book, "repair 1 1")
    disk.faults = Faults(1, errno.ENOSPC, lasting=True, only=frozenset({"create"}))
    check(book, "repair 1 2")
    with pytest.raises(Fenced):
        check(book, "repair 1 1")
    disk.faults = None
    check(book, "repair 1 2")
    with pytest.raises(Fenced):
        check(fences(disk), "repair 1 1")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"repair": 1}', b'{"leases": 1}', b'{"leases": {"repair": [9, 9]}, "crc": "0"}', b"\xff"])
def test_a_file_that_cannot_be_read_counts_for_nothing(content: bytes) -> None:
    book = fences(SimDisk.holding({PATH: content}))
    check(book, "repair 1 1")


def test_no_flipped_bit_makes_a_fence_that_refuses_the_leader() -> None:
    disk = SimDisk()
    check(fences(disk), "repair 1 3")
    content = disk.contents()[PATH]
    for place in range(8 * len(content)):
        spoilt = bytearray(content)
        spoilt[place // 8] ^= 1 << place % 8
        check(fences(SimDisk.holding({PATH: bytes(spoilt)})), "repair 1 3")


def test_a_disk_that_cannot_read_it_counts_for_nothing() -> None:
    disk = SimDisk.holding({PATH: b'{"repair": [5, 5]}'})
    disk.faults = Faults(1, errno.EIO, only=frozenset({"open"}))
    check(fences(disk), "repair 1 1")
