"""dfs.node.server: the steps of a start that decide something."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dfs import METADATA_FORMAT
from dfs.errors import StartError, Unavailable
from dfs.metadata.contract import OutcomeUnknown
from dfs.model import ClusterInfo
from dfs.node.identity import Whereabouts
from dfs.node.server import check_format, describe, patiently
from dfs.process import Interrupted
from tests.unit.node.fakes import NODE

HERE = Whereabouts("n1", "10.0.0.1", "z", "i-1", Path("/data"))


class FakeLifetime:
    def __init__(self, stop_after: int | None = None) -> None:
        self.waits: list[float] = []
        self.stop_after = stop_after
        self.reason = "SIGTERM"

    def wait(self, seconds: float) -> bool:
        self.waits.append(seconds)
        return len(self.waits) == self.stop_after


def patience(failures: list[Exception], lifetime: FakeLifetime, seconds: float) -> str:
    def ask() -> str:
        if failures:
            raise failures.pop(0)
        return "answer"

    made: Any = lifetime
    return patiently(ask, made, seconds)


def test_a_start_waits_for_metadata_that_is_away_for_a_moment() -> None:
    lifetime = FakeLifetime()
    assert patience([Unavailable("away"), OutcomeUnknown("lost")], lifetime, 3600) == "answer"
    assert lifetime.waits == [0.5, 0.5]


def test_a_start_does_not_wait_for_ever_and_names_the_settings() -> None:
    with pytest.raises(StartError, match=r"metadata did not answer for 0 s \(away\): check DFS_METADATA_URL"):
        patience([Unavailable("away")], FakeLifetime(), 0)


def test_a_stop_ends_the_waiting() -> None:
    with pytest.raises(Interrupted, match="SIGTERM"):
        patience([Unavailable("away")] * 9, FakeLifetime(stop_after=2), 3600)


def test_what_waiting_does_not_mend_is_not_waited_for() -> None:
    lifetime = FakeLifetime()
    with pytest.raises(StartError, match="no table"):
        patience([StartError("no table")], lifetime, 3600)
    assert not lifetime.waits


def test_metadata_of_a_newer_format_is_refused() -> None:
    check_format(ClusterInfo("c1", 1, METADATA_FORMAT))
    with pytest.raises(StartError, match="newer release"):
        check_format(ClusterInfo("c1", 1, METADATA_FORMAT + 1))


def test_a_new_process_counts_on_from_the_last_ones_heartbeats() -> None:
    first = describe(HERE, "d1", 8081, [])
    assert (first.node_id, first.address, first.port, first.zone, first.instance_id) == (
        "n1", "10.0.0.1", 8081, "z", "i-1"
    )  # fmt: skip
    assert first.heartbeat_seq == 0
    again = describe(HERE, "d1", 8081, [replace(NODE, heartbeat_seq=41)])
    assert again.heartbeat_seq == 41
    assert again.boot_id != first.boot_id
