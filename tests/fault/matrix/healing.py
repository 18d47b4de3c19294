"""Faults at each step of what the leader of repair does: making copies, taking copies away, emptying nodes.

A cell's strikes are carried out one after the other, each on a cluster of its own: the fault meets the
first leader; what is visible and what is stored is looked at; then the fault is over (the process that died
stays dead, another leads), and in the end everything must be whole.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dfs.errors import NodeFull, StoreReadOnly
from dfs.wire.message import Request
from tests.fault.matrix.strikes import cut_power, dawdle, quiet
from tests.support.cluster import eventually
from tests.support.disk_node import DiskNode
from tests.support.faults import cut_off
from tests.support.site import Site

LEADS = {"repair_interval": 0.05, "repair_delay": 0.5, "replication_timeout": 0.2, "node_timeout": 1.0}
"""Of a server in a process of its own that is to lead."""


class Damage(ABC):
    """Files, and what the leader is to do about them."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.files = {"other": b"another file", "a/file": b"the file itself"}
        self.ids = {path: site.put(path, data) for path, data in self.files.items()}

    @abstractmethod
    def done(self) -> bool:
        """Whether the leader has done everything."""

    def examine(self, *, readable: bool) -> None:
        """What holds at any moment: every file is read as it was; two rows at least, and a good copy."""
        if readable:
            assert self.site.shown() == self.files
        for file_id in self.ids.values():
            rows = list(self.site.store.replicas(file_id))
            assert len({row.node_id for row in rows}) >= 2
            assert self.good(file_id) & {row.node_id for row in rows}

    def good(self, file_id: str) -> set[str]:
        return {node.node_id for node in self.site.api.holders(file_id)}

    def finish(self) -> None:
        """Everything is whole, and what is left over without a row goes by its rule."""
        leader = self.site.leader()
        leader.start()
        try:
            eventually(lambda: self.done() and self.trimmed(), "it is healed")
        finally:
            leader.stop()
        self.site.sweep()
        assert self.site.shown() == self.files
        assert self.site.audit() == set() and self.site.surplus() == set()
        assert self.trimmed()

    def trimmed(self) -> bool:
        """Whether every file has two copies and no more (of a node that was taken for lost and has come
        back, one is left over)."""
        return all(len(list(self.site.store.replicas(file_id))) == 2 for file_id in self.ids.values())


Strike = Callable[[Damage], None]


# --- strikes --------------------------------------------------------------------------------------------


def _lead(site: Site, reached: threading.Event, look: Callable[[], None]) -> None:
    """A leader works until the fault has been met; `look` while it lasts."""
    leader = site.leader()
    leader.start()
    try:
        assert reached.wait(30), "the step was never reached"
        look()
        site.lift()
    finally:
        leader.stop()


def metadata(step: str, *acts: str) -> list[Strike]:
    """The metadata does one of `acts` at the step."""

    def strike_with(act: str) -> Strike:
        def strike(damage: Damage) -> None:
            gate = damage.site.gate
            damage.site.leader()  # the server's own stops
            gate.arm(step, act)
            _lead(damage.site, gate.reached, lambda: damage.examine(readable=not act.endswith("away")))

        return strike

    return [strike_with(act) for act in acts]


def nodes(path: str, hook: Callable[[DiskNode, Request], None], *, after: bool = False) -> list[Strike]:
    """Whatever node is asked for `path` meets `hook`, and goes on meeting it."""

    def strike(damage: Damage) -> None:
        reached = threading.Event()

        def on(node: DiskNode) -> Callable[[Request], None]:
            def act(request: Request) -> None:
                if request.path == path:
                    reached.set()
                    hook(node, request)

            return act

        site = damage.site
        for node in site.nodes:
            setattr(node, "after" if after else "before", on(node))
        _lead(site, reached, lambda: damage.examine(readable=not site.gate._away))

    return [strike]


def refusing(error: Exception) -> Callable[[DiskNode, Request], None]:
    def hook(node: DiskNode, request: Request) -> None:
        raise error

    return hook


def dying(path: str) -> list[Strike]:
    """The first node that is asked for `path` is dead from then on, for a while."""

    def strike(damage: Damage) -> None:
        dead: list[DiskNode] = []
        threads: list[threading.Thread] = []

        def hook(node: DiskNode, request: Request) -> None:
            if not dead:
                dead.append(node)
                threads.append(threading.Thread(target=node.kill))
                threads[0].start()
            if dead[0] is node:
                cut_off(request)

        nodes(path, hook)[0](damage)
        threads[0].join()
        dead[0].revive()

    return [strike]


def away_at(path: str) -> list[Strike]:
    """Metadata goes away when a node is asked for `path`."""

    def strike(damage: Damage) -> None:
        def hook(node: DiskNode, request: Request) -> None:
            damage.site.gate._away = True

        nodes(path, hook)[0](damage)

    return [strike]


def killed(step: str, act: str, *, power: bool = False) -> Strike:
    """The leader's process is killed at a step of the metadata; with `power` the nodes lose theirs too."""

    def strike(damage: Damage) -> None:
        site = damage.site
        site.leader()
        with site.doomed(step, act, **LEADS) as doomed:
            doomed.died()
        if power:
            cut_power(site)

    return strike


def killed_at(path: str, *, done: bool, power: bool = False) -> Strike:
    """The leader's process is killed when a node is asked for `path`, before or after it does it."""

    def strike(damage: Damage) -> None:
        site = damage.site
        site.leader()
        with site.doomed(**LEADS) as doomed:

            def hook(request: Request) -> None:
                if request.path == path:
                    doomed.kill()

            for node in site.nodes:
                if done:
                    node.after = hook
                else:
                    node.before = hook
            doomed.died()
            quiet(site)
        if power:
            cut_power(site)

    return strike


def steps_of_metadata(name: str, step: str) -> dict[str, list[Strike]]:
    """The cells of a step that is a call on the metadata."""
    return {
        f"{name}-process killed": [killed(step, "killed before"), killed(step, "killed after")],
        f"{name}-power lost": [killed(step, "killed after", power=True)],
        f"{name}-disk full": metadata(step, "full"),
        f"{name}-disk error": metadata(step, "broken", "broken after"),
        f"{name}-peer slow": metadata(step, "slow"),
        f"{name}-reply lost": metadata(step, "lost", "dropped"),
        f"{name}-metadata unavailable": metadata(step, "away"),
    }


def steps_of_nodes(name: str, path: str) -> dict[str, list[Strike]]:
    """The cells of a step that is a call on a node."""
    return {
        f"{name}-process killed": [killed_at(path, done=False), killed_at(path, done=True)],
        f"{name}-power lost": [killed_at(path, done=True, power=True)],
        f"{name}-disk full": nodes(path, refusing(NodeFull("no room"))),
        f"{name}-disk error": nodes(path, refusing(StoreReadOnly("the disk failed"))),
        f"{name}-peer dead": dying(path),
        f"{name}-peer slow": nodes(path, lambda node, request: dawdle(request)),
        f"{name}-reply lost": nodes(path, lambda node, request: cut_off(request), after=True),
        f"{name}-metadata unavailable": away_at(path),
    }


def examine(directory: Path, strikes: list[Strike], make: Callable[[Site], Damage]) -> None:
    """See the module's text."""
    for number, strike in enumerate(strikes):
        with Site(directory / str(number), **SETTINGS) as site:
            damage = make(site)
            strike(damage)
            site.lift()
            site.wait_writable()
            damage.examine(readable=True)
            damage.finish()


SETTINGS: dict[str, Any] = {"node_timeout": 1.0}
