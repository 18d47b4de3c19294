"""The disk seam: the real one, and the simulated one that the fault tests rely on."""

from __future__ import annotations

import errno
import mmap
import os
import random
import sys
from pathlib import Path

import pytest

from dfs.store import disk as disk_module
from dfs.store.disk import (
    BLOCK,
    DIRECT_BYTES,
    DiskFile,
    OsDisk,
    close_quietly,
    opened,
    read_fully,
    write_fully,
    write_small,
)
from dfs.store.volume import VolumeFiles
from tests.support.disk import Faults, SimDisk, Wreck, crash_images


def test_the_real_disk_does_what_the_simulated_one_does(tmp_path: Path) -> None:
    simulated = SimDisk()
    for disk, place in ((OsDisk(), str(tmp_path)), (simulated, "/disk")):
        name = f"{place}/f"
        disk.make_directory(f"{place}/d")
        file = disk.create(name)
        assert write_fully(file, [b"ab", b"", memoryview(b"cde"), bytearray(b"f")], 2) == 6
        file.sync()
        with pytest.raises(FileExistsError):
            disk.create(name)
        assert read_fully(file, 100, 0) == b"\0\0abcdef"
        assert read_fully(file, 3, 3) == b"bcd"
        assert file.size() == 8
        file.forget_cached(0, 8)
        file.truncate(4)
        assert file.size() == 4
        file.close()
        assert disk.listdir(place) == {"f": 4}
        disk.rename(name, f"{place}/g")
        disk.sync_directory(place)
        with opened(disk, f"{place}/g") as again:
            assert read_fully(again, 9, 0) == b"\0\0ab"
        with opened(disk, f"{place}/g", write=True) as again:
            again.write([b"z"], 0)
        disk.unlink(f"{place}/g")
        for call in (disk.open, disk.unlink):
            with pytest.raises(FileNotFoundError):
                call(f"{place}/g")
        space = disk.space(place)
        assert 0 < space.free <= space.total


def test_a_directory_is_made_once_and_a_file_in_its_place_is_an_error(tmp_path: Path) -> None:
    disk = OsDisk()
    disk.make_directory(f"{tmp_path}/d")
    disk.make_directory(f"{tmp_path}/d")
    (tmp_path / "f").touch()
    with pytest.raises(FileExistsError):
        disk.make_directory(f"{tmp_path}/f")
    file = disk.create(f"{tmp_path}/d/x")
    file.close()
    file.close()


def test_short_writes_are_gone_on_with_and_no_progress_is_an_error() -> None:
    class Slow:
        def __init__(self) -> None:
            self.data = bytearray()

        def write(self, buffers: list[bytes], offset: int) -> int:
            assert offset == len(self.data)
            joined = b"".join(buffers)[:3]
            self.data += joined
            return len(joined)

    slow = Slow()
    assert write_fully(slow, [b"abcd", b"e", memoryview(b"fghij")], 0) == 10  # type: ignore[arg-type]
    assert bytes(slow.data) == b"abcdefghij"
    slow.write = lambda buffers, offset: 0  # type: ignore[method-assign]
    with pytest.raises(OSError, match="no bytes"):
        write_fully(slow, [b"x"], 0)  # type: ignore[arg-type]


def test_many_buffers_are_written_in_several_calls(tmp_path: Path) -> None:
    file = OsDisk().create(f"{tmp_path}/f")
    buffers = [b"%04d" % number for number in range(3000)]
    assert write_fully(file, buffers, 0) == 12_000
    assert read_fully(file, 12_000, 0) == b"".join(buffers)
    file.close()


def test_a_small_file_is_replaced_whole(tmp_path: Path) -> None:
    disk = OsDisk()
    (tmp_path / "f.tmp").write_bytes(b"leftover")
    for text in (b"one", b"two"):
        write_small(disk, str(tmp_path), "f", text)
        assert (tmp_path / "f").read_bytes() == text
    assert os.listdir(tmp_path) == ["f"]


def test_on_macos_the_drive_is_told_to_flush(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls: list[object] = []
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(disk_module.fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(disk_module.fcntl, "fcntl", lambda descriptor, what: calls.append(what))
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    file = OsDisk().create(f"{tmp_path}/f")
    file.sync()
    file.forget_cached(0, 1)
    file.close()
    assert calls == [51]


def test_a_failing_close_of_what_is_durable_is_only_logged() -> None:
    disk = SimDisk.holding({"/f": b"x"})
    disk.faults = Faults(1, errno.EIO, lasting=True, only=frozenset({"close"}))
    close_quietly(disk.open("/f"), "/f")
    with opened(disk, "/f") as file:
        assert read_fully(file, 1, 0) == b"x"


# --- shared open files ------------------------------------------------------------------------


def test_open_files_are_shared_bounded_and_kept_for_their_readers() -> None:
    disk = SimDisk.holding({f"/v/{number:010d}.vol": b"%d" % number for number in range(9)})
    files = VolumeFiles(disk, "/v", limit=3)
    closed: list[object] = []
    original = type(disk.open("/v/0000000000.vol")).close

    def close(file: DiskFile) -> None:
        closed.append(file)
        original(file)  # type: ignore[arg-type]

    held = files.acquire(0)
    assert files.acquire(0) is held
    files.release(held)
    type(held.file).close = close  # type: ignore[method-assign]
    try:
        for number in range(1, 9):
            with files.reading(number) as file:
                assert read_fully(file, 1, 0) == b"%d" % number
        assert len(closed) == 6
        assert held.file not in closed
        files.forget(0)
        files.forget(0)
        disk.unlink("/v/0000000000.vol")
        assert read_fully(held.file, 1, 0) == b"0"
        files.release(held)
        assert held.file in closed
        with pytest.raises(FileNotFoundError):
            files.acquire(0)
        files.close()
    finally:
        type(held.file).close = original  # type: ignore[method-assign]


def test_two_who_open_at_once_share_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimDisk.holding({"/v/0000000001.vol": b"1"})
    files = VolumeFiles(disk, "/v")
    original, inner = disk.open, []

    def slow_open(path: str, *, write: bool = False) -> DiskFile:
        if not inner:
            inner.append(None)
            inner.append(files.acquire(1))  # another thread was faster
        return original(path, write=write)

    monkeypatch.setattr(disk, "open", slow_open)
    assert files.acquire(1) is inner[1]


# --- the simulated disk -----------------------------------------------------------------------


def wreck_of(disk: SimDisk) -> Wreck:
    wreck = Wreck(disk)
    for event in disk.trace:
        wreck.step(event)
    return wreck


def left(disk: SimDisk, keep: bool) -> dict[str, bytes]:
    return wreck_of(disk).image(lambda _: keep, lambda _: None)


def test_only_what_was_synced_survives_for_certain() -> None:
    disk = SimDisk()
    file = disk.create("/d/f")
    file.write([b"one"], 0)
    file.sync()
    assert left(disk, False) == {}, "a name is durable after a sync of its directory only"
    disk.sync_directory("/d")
    file.write([b"two"], 3)
    assert left(disk, False) == {"/d/f": b"one"}
    assert left(disk, True) == {"/d/f": b"onetwo"}
    disk.rename("/d/f", "/d/g")
    assert left(disk, False) == {"/d/f": b"one"}
    disk.sync_directory("/d")
    assert left(disk, False) == {"/d/g": b"one"}
    file.truncate(1)
    disk.unlink("/d/g")
    assert left(disk, False) == {"/d/g": b"one"}
    assert left(disk, True) == {}


def test_after_a_failed_sync_a_later_one_does_not_help() -> None:
    disk = SimDisk.holding({"/f": b""})
    file = disk.open("/f", write=True)
    file.write([b"lost"], 0)
    disk.faults = Faults(1, errno.EIO)
    with pytest.raises(OSError):
        file.sync()
    file.write([b"kept"], 4)
    file.sync()
    assert left(disk, False) == {"/f": b"\0\0\0\0kept"}
    assert left(disk, True) == {"/f": b"lostkept"}
    assert disk.contents() == {"/f": b"lostkept"}
    file.write([b"LOST"], 0)
    file.sync()
    assert left(disk, False) == {"/f": b"LOSTkept"}


def test_crash_images_tear_drop_and_mix() -> None:
    disk = SimDisk.holding({"/f": bytes(4096)})
    file = disk.open("/f", write=True)
    file.write([b"a" * 2048], 0)
    file.write([b"b" * 2048], 2048)
    images = list(crash_images(wreck_of(disk), random.Random(1)))
    names = [name for name, _ in images]
    assert {"all", "none", "one lost", "random", "torn at 512, head", "torn at 4096, holes"} <= set(names)
    seen = {content["/f"] for _, content in images}
    assert {
        b"a" * 2048 + b"b" * 2048,
        bytes(4096),
        b"a" * 2048 + bytes(2048),
        bytes(2048) + b"b" * 2048,
    } <= seen
    assert len(seen) > 7


def test_a_full_simulated_disk_writes_what_fits() -> None:
    disk = SimDisk(capacity=10)
    file = disk.create("/f")
    assert file.write([b"x" * 20], 0) == 10
    with pytest.raises(OSError) as refused:
        file.write([b"y"], 10)
    assert refused.value.errno == errno.ENOSPC
    assert file.write([b"z"], 0) == 1
    with pytest.raises(OSError):
        disk.create("/g")


needs_direct = pytest.mark.skipif(not hasattr(os, "O_DIRECT"), reason="needs O_DIRECT; to run: make test on Linux")


def aligned(size: int) -> memoryview:
    """Memory that begins with a page, as a node's buffers do."""
    view = memoryview(mmap.mmap(-1, size))
    view[:] = random.Random(size).randbytes(size)
    return view


class DirectCalls:
    """The direct opens and the sizes of the direct writes of the system calls below; `fail` comes instead."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fail: OSError | None = None, most: int = 1 << 30) -> None:
        self.opened: list[int] = []
        self.written: list[int] = []
        self.fail = fail
        self.most = most
        self._open, self._pwrite = os.open, os.pwrite
        monkeypatch.setattr(os, "open", self.open)
        monkeypatch.setattr(os, "pwrite", self.pwrite)

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:  # not every file system of a test machine takes it
            self.opened.append(self._open(path, flags & ~os.O_DIRECT, mode))
            return self.opened[-1]
        return self._open(path, flags, mode)

    def pwrite(self, descriptor: int, data: memoryview, offset: int) -> int:
        assert descriptor in self.opened
        assert offset % BLOCK == 0
        assert len(data) % BLOCK == 0
        if self.fail is not None:
            raise self.fail
        self.written.append(len(data))
        return self._pwrite(descriptor, data[: self.most], offset)


@needs_direct
def test_whole_blocks_of_large_buffers_go_past_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = DirectCalls(monkeypatch)
    file = OsDisk().create(f"{tmp_path}/f")
    head, body, tail = b"h" * BLOCK, aligned(DIRECT_BYTES + 100), b"t" * 24
    assert write_fully(file, [head, body, tail], 0) == BLOCK + len(body) + 24
    file.sync()
    assert calls.written == [DIRECT_BYTES]
    assert read_fully(file, 1 << 20, 0) == head + bytes(body) + tail
    file.close()
    for descriptor in calls.opened:
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


@needs_direct
def test_small_buffers_and_those_within_a_block_are_written_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = DirectCalls(monkeypatch)
    file = OsDisk().create(f"{tmp_path}/f")
    small, large = aligned(DIRECT_BYTES - 1), aligned(DIRECT_BYTES)
    write_fully(file, [small], 0)
    write_fully(file, [large], len(small))
    assert not calls.opened
    assert read_fully(file, 1 << 20, 0) == bytes(small) + bytes(large)
    other = OsDisk(direct=False).create(f"{tmp_path}/g")
    write_fully(other, [large], 0)
    assert not calls.opened
    file.close()
    other.close()


@needs_direct
def test_a_direct_write_that_stops_short_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = DirectCalls(monkeypatch, most=DIRECT_BYTES + BLOCK)
    file = OsDisk().create(f"{tmp_path}/f")
    body = aligned(2 * DIRECT_BYTES + BLOCK)
    assert write_fully(file, [body], BLOCK) == len(body)
    assert calls.written == [len(body), DIRECT_BYTES]
    assert read_fully(file, 1 << 20, BLOCK) == bytes(body)
    file.close()


@needs_direct
@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP])
def test_where_direct_writes_cannot_be_done_the_page_cache_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    calls = DirectCalls(monkeypatch, fail=OSError(code, "not here"))
    file = OsDisk().create(f"{tmp_path}/f")
    body = aligned(DIRECT_BYTES)
    for offset in (0, len(body)):
        assert write_fully(file, [body], offset) == len(body)
    assert len(calls.opened) == 1
    assert read_fully(file, 1 << 20, 0) == 2 * bytes(body)
    file.close()


@needs_direct
@pytest.mark.parametrize("code", [errno.EINVAL, errno.ENOENT, errno.EMFILE])
def test_a_file_that_cannot_be_opened_again_is_written_through_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    file = OsDisk().create(f"{tmp_path}/f")
    tries = []

    def refuse(*given: object) -> int:
        tries.append(given)
        raise OSError(code, "no")

    monkeypatch.setattr(os, "open", refuse)
    body = aligned(DIRECT_BYTES)
    for offset in (0, len(body)):
        assert write_fully(file, [body], offset) == len(body)
    assert len(tries) == 1
    assert read_fully(file, 1 << 20, 0) == 2 * bytes(body)
    file.close()


@needs_direct
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_error_of_the_disk_is_not_tried_again_through_the_page_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    DirectCalls(monkeypatch, fail=OSError(code, "no"))
    file = OsDisk().create(f"{tmp_path}/f")
    with pytest.raises(OSError, match="no") as caught:
        write_fully(file, [aligned(DIRECT_BYTES)], 0)
    assert caught.value.errno == code
    file.close()
