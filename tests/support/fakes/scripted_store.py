"""A store whose transactions go wrong in an order that a test writes down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pytest

from dfs.errors import Busy, Unavailable
from dfs.metadata.contract import MetadataStore, OutcomeUnknown, StepsRefused
from dfs.metadata.steps import Step
from dfs.model import Head

Act = str | Callable[[], object]


def intercept(
    monkeypatch: pytest.MonkeyPatch, store: MetadataStore, transact: Callable[[Any], None]
) -> None:
    """Every transaction of `store` goes to `transact`: those on a head, too, which is read first."""
    monkeypatch.setattr(store, "transact", transact)
    monkeypatch.setattr(store, "transact_on", partial(MetadataStore.transact_on, store))


class ScriptedStore:
    """Passes everything on to `store`, but each `transact` takes the next act of `script`:

    "ok"; "lost" (applied, the answer lost); "drop" (not applied, the answer lost); "late" (as drop,
    and applied by `arrive`); "dark" (as drop, and reads fail from then on); "busy"; "down"; a function is called first, then the next act follows.
    Without acts left, transactions are plain. `at(method, number, call)`: the call comes just before
    the method's number-th use. `reads_fail`: every read raises Unavailable.
    """

    def __init__(self, store: MetadataStore, *script: Act) -> None:
        self.store = store
        self.script = list(script)
        self.sent: list[Sequence[Step]] = []
        self.late: list[Sequence[Step]] = []
        self.reads_fail = False
        self._hooks: dict[tuple[str, int], Callable[[], object]] = {}
        self._uses: Counter[str] = Counter()

    def at(self, method: str, number: int, call: Callable[[], object]) -> None:
        """See the class."""
        self._hooks[method, number] = call

    def __getattr__(self, name: str) -> Any:
        if self.reads_fail and name in ("get_file", "get_head", "operation"):
            raise Unavailable("injected")
        self._uses[name] += 1
        self._hooks.pop((name, self._uses[name]), lambda: None)()
        return getattr(self.store, name)

    def transact(self, steps: Sequence[Step]) -> None:
        while self.script and callable(self.script[0]):
            self.script.pop(0)()  # type: ignore[operator]
        act = self.script.pop(0) if self.script else "ok"
        self.sent.append(steps)
        if act == "busy":
            raise Busy("injected")
        if act == "down":
            raise Unavailable("injected")
        if act == "late":
            self.late.append(steps)
        if act in ("ok", "lost"):
            self.store.transact(steps)
        if act == "dark":
            self.reads_fail = True
        if act != "ok":
            raise OutcomeUnknown("injected")

    def transact_on(self, bucket: str, path: str, build: Callable[[Head | None], Sequence[Step]]) -> None:
        self.transact(build(self.get_head(bucket, path)))

    def arrive(self) -> list[bool]:
        """Apply the late transactions; for each, whether it was accepted."""
        accepted = []
        for steps in self.late:
            try:
                self.store.transact(steps)
                accepted.append(True)
            except StepsRefused:
                accepted.append(False)
        self.late = []
        return accepted
