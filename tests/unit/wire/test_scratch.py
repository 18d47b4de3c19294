"""Buffers that are used again."""

from __future__ import annotations

from dfs.wire.scratch import ScratchPool


def test_buffers_come_back_and_no_more_are_kept_than_agreed() -> None:
    pool = ScratchPool(1000, idle=2)
    lent = [pool.take() for _ in range(4)]
    assert len({id(buffer.obj) for buffer in lent}) == 4
    assert all(len(buffer) == 1000 and not buffer.readonly for buffer in lent)
    for buffer in lent:
        pool.give_back(buffer)
    again = [pool.take() for _ in range(3)]
    assert [any(buffer is each for each in lent) for buffer in again] == [True, True, False]
