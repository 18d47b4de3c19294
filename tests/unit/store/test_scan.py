"""Walking over volumes, whole and damaged, and where a volume ends."""

from __future__ import annotations

import errno
import hashlib
import random

import pytest

from dfs.store.disk import DiskFile
from dfs.store.extent import Extent
from dfs.store.record import NO_FILE, Kind, Record, encode_header, padded, piece_crcs
from dfs.store.scan import Damage, body_is_good, read_tolerant, walk
from tests.support.disk import Faults, SimDisk

ID = b"i" * 16


def record(
    offset: int, sequence: int, body: bytes = b"", durable_upto: int = 0, volume_id: bytes = ID
) -> bytes:
    head = encode_header(
        Kind.DATA,
        volume_id=volume_id,
        offset=offset,
        sequence=sequence,
        durable_upto=durable_upto,
        created=0,
        file_id=NO_FILE,
        chunk_index=sequence,
        length=len(body),
        sha256=hashlib.sha256(body).digest(),
        attributes=b"{}",
        crcs=piece_crcs(body),
    )
    return head + body + bytes(-len(body) % 8)


def volume(bodies: list[bytes], durable: dict[int, int] | None = None) -> tuple[bytes, list[int]]:
    """Records with these bodies one after the other, and where each begins."""
    data, places = b"", []
    for number, body in enumerate(bodies):
        places.append(len(data))
        data += record(len(data), number, body, (durable or {}).get(number, 0))
    return data, places


def file_of(data: bytes) -> tuple[SimDisk, DiskFile]:
    disk = SimDisk.holding({"/f": data})
    return disk, disk.open("/f")


def found(data: bytes, volume_id: bytes | None = ID, start: int = 0) -> list[object]:
    """Sequence numbers, and (offset, end) of damage."""
    _, file = file_of(data)
    return [
        (item.offset, item.end) if isinstance(item, Damage) else item.sequence
        for item in walk(file, volume_id, start, len(data))
    ]


BODIES = [b"", b"a" * 100, b"b" * 5000, b"c" * 300_000, b"d"]


def test_every_record_is_found_in_order() -> None:
    data, places = volume(BODIES)
    assert found(data) == [0, 1, 2, 3, 4]
    assert found(data, None) == [0, 1, 2, 3, 4]
    assert found(data, start=places[3]) == [3, 4]
    assert found(b"") == []


def test_damage_is_skipped_to_the_next_record() -> None:
    data, places = volume(BODIES)
    spoilt = bytearray(data)
    spoilt[places[2] + 20] ^= 1
    assert found(bytes(spoilt)) == [0, 1, (places[2], places[3]), 3, 4]
    spoilt[places[0]] ^= 1
    assert found(bytes(spoilt), None) == [(0, places[1]), 1, (places[2], places[3]), 3, 4]


def test_a_record_cut_short_is_damage() -> None:
    data, places = volume(BODIES)
    assert found(data[:-1]) == [0, 1, 2, 3, (places[4], len(data) - 1)]
    assert found(data[: places[3] + 2000]) == [0, 1, 2, (places[3], places[3] + 2000)]


def test_records_of_other_volumes_and_other_places_do_not_count() -> None:
    """Bytes of an older life of the same blocks, or a volume file that a client uploaded."""
    data, _ = volume([b"x"])
    stale = record(len(data), 9, b"stale", volume_id=b"o" * 16)
    moved = record(0, 8, b"moved")
    assert found(data + stale + moved) == [0, (len(data), len(data + stale + moved))]


def test_magic_inside_bodies_and_at_odd_places_leads_nowhere() -> None:
    body = b"dfsR" * 1000 + b"x" + b"dfsR" * 1000
    data, places = volume([body, b"y", b"z"])
    spoilt = bytearray(data)
    spoilt[0] ^= 1
    assert found(bytes(spoilt)) == [(0, places[1]), 1, 2]


def test_a_long_damaged_stretch_is_crossed() -> None:
    noise = random.Random(1).randbytes(padded(700_000))
    end = record(len(noise), 3, b"end")
    assert found(noise + end) == [(0, len(noise)), 3]
    assert found(noise) == [(0, len(noise))]


def test_sectors_that_cannot_be_read_are_damage_and_said_to_be_unreadable() -> None:
    data, places = volume([b"a" * 5000, b"b" * 9000, b"c"])
    disk, file = file_of(data)
    disk.faults = Faults(1, errno.EIO)
    assert read_tolerant(file, len(data), 0) == (data, False)
    reads = 0

    def bad_sector(name: str) -> bool:
        nonlocal reads
        reads += name == "read"
        if reads in (1, 2):  # the window, and then its first sector
            raise OSError(errno.EIO, "I/O error")
        return False

    disk.faults = bad_sector
    items = list(walk(file, ID, 0, len(data)))
    assert items[0] == Damage(0, places[1], unreadable=True)
    assert [item.sequence for item in items[1:] if isinstance(item, Record)] == [1, 2]


def test_bodies_are_compared_with_the_crc_of_every_piece() -> None:
    data, places = volume(BODIES)
    _, file = file_of(data)
    records = [item for item in walk(file, ID, 0, len(data)) if isinstance(item, Record)]
    assert all(body_is_good(file, item) for item in records)
    for place in (records[3].header_length, records[3].header_length + 299_999):
        spoilt = bytearray(data)
        spoilt[places[3] + place] ^= 1
        assert not body_is_good(file_of(bytes(spoilt))[1], records[3])
    assert not body_is_good(file_of(data[:-8])[1], records[4])


# --- where a volume ends ----------------------------------------------------------------------


def extent(data: bytes, durable: int = 0) -> tuple[list[object], Extent]:
    _, file = file_of(data)
    area = Extent(file, ID, 0, len(data), durable)
    items: list[object] = [
        (item.offset, item.end) if isinstance(item, Damage) else item.sequence for item in area
    ]
    return items, area


def test_a_torn_tail_ends_the_volume_at_its_first_bad_record() -> None:
    data, places = volume([b"a" * 50, b"b" * 50, b"c" * 50])
    spoilt = bytearray(data)
    spoilt[places[1] + 160] ^= 1  # the body
    items, area = extent(bytes(spoilt))
    assert (items, area.end) == ([0], places[1])
    spoilt[places[1]] ^= 1
    items, area = extent(bytes(spoilt))
    assert (items, area.end) == ([0], places[1])
    assert area.sequence == 2, "numbers beyond the end must not be given out again"


def test_below_a_later_durable_upto_damage_is_corruption() -> None:
    data, places = volume([b"a" * 50, b"b" * 50, b"c" * 50])
    durable = {2: places[2]}
    data, places = volume([b"a" * 50, b"b" * 50, b"c" * 50], durable)
    spoilt = bytearray(data)
    spoilt[places[1]] ^= 1
    items, area = extent(bytes(spoilt))
    assert items == [0, (places[1], places[2]), 2]
    assert (area.end, area.durable) == (len(data), places[2])


def test_below_what_the_index_has_damage_is_corruption() -> None:
    data, places = volume([b"a" * 50, b"b" * 50])
    spoilt = bytearray(data)
    spoilt[places[1]] ^= 1
    items, area = extent(bytes(spoilt), durable=len(data))
    assert items == [0, (places[1], len(data))]
    assert area.end == len(data)


def test_valid_records_behind_an_unsynced_hole_do_not_count() -> None:
    """Sectors reach the disk out of order."""
    data, places = volume([b"a" * 50, b"b" * 600, b"c" * 50, b"d" * 50])
    hole = bytearray(data)
    hole[places[1] : places[2]] = bytes(places[2] - places[1])
    items, area = extent(bytes(hole))
    assert (items, area.end) == ([0], places[1])


def test_what_cannot_be_read_is_not_the_end() -> None:
    data, _ = volume([b"a" * 50, b"b" * 50])
    disk, file = file_of(data)
    disk.faults = Faults(2, errno.EIO)
    area = Extent(file, ID, 0, len(data), 0)
    assert len(list(area)) == 2
    assert area.unreadable
    assert area.end == len(data)


@pytest.mark.parametrize("size", [1, 127, 200])
def test_a_file_without_one_record_ends_at_its_beginning(size: int) -> None:
    items, area = extent(bytes(size))
    assert (items, area.end) == ([], 0)
