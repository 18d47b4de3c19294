from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pytest

from dfs.api import assembly
from dfs.errors import StartError, Unavailable
from dfs.metadata.contract import OutcomeUnknown
from dfs.model import ClusterInfo
from dfs.process import Interrupted, Lifetime
from dfs.settings import ApiSettings


class Life:
    """A lifetime whose stop comes when the test says so."""

    reason = "SIGTERM"

    def __init__(self, stop_after: int = 1000) -> None:
        self.waits = 0
        self._stop_after = stop_after

    def wait(self, seconds: float) -> bool:
        self.waits += 1
        return self.waits > self._stop_after


def lifetime(stop_after: int = 1000) -> Lifetime:
    return cast(Lifetime, Life(stop_after))


def failing(*errors: Exception) -> Any:
    left = list(errors)

    def ask() -> str:
        if left:
            raise left.pop(0)
        return "answer"

    return ask


def test_metadata_that_answers_in_the_end() -> None:
    ask = failing(Unavailable("not yet"), OutcomeUnknown("lost"))
    assert assembly._patiently(ask, lifetime()) == "answer"


def test_metadata_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assembly, "METADATA_SECONDS", 0.0)
    with pytest.raises(StartError, match="DFS_METADATA_URL"):
        assembly._patiently(failing(Unavailable("away")), lifetime())


def test_a_stop_while_metadata_is_away() -> None:
    with pytest.raises(Interrupted):
        assembly._patiently(failing(*[Unavailable("away")] * 10), lifetime(stop_after=2))


def test_metadata_of_a_newer_release(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    class Newer:
        closed = False

        def cluster_info(self) -> ClusterInfo:
            return ClusterInfo("c", 1, 99)

        def close(self) -> None:
            self.closed = True

    store = Newer()
    monkeypatch.setattr(assembly, "open_metadata", lambda settings: store)
    with pytest.raises(StartError, match="format 99"):
        assembly.serve(ApiSettings(), lifetime())
    assert store.closed
