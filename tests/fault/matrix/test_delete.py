"""A file leaves its path, for the trash or for good, and something fails at each step; of one that leaves
for good also while the eraser takes its bytes, rows and record away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from dfs.errors import NodeFull, StoreReadOnly
from dfs.model import FileState
from dfs.wire.message import Request
from tests.fault.matrix.rebinding import PURGE, TRASH, Rebinding, examine, ways
from tests.fault.matrix.strikes import cut_power, dawdle, quiet
from tests.support.faults import lose_answers, refuse
from tests.support.site import Site

WAYS = ways("delete")


@pytest.mark.parametrize("cell", WAYS)
def test_delete(tmp_path: Path, cell: str) -> None:
    for number, way in enumerate(WAYS[cell]):
        for query, fate in ((TRASH, "repeated"), (PURGE, "given up")):
            examine(tmp_path / f"{number}-{fate}", way, query, fate)


# --- the eraser --------------------------------------------------------------------------------------

Strike = Callable[[Site], None]


def run(site: Site) -> None:
    """One run of the eraser of this process, whatever comes of it."""
    site.eraser(site.gate).run_once(site.later())


def metadata(step: str, act: str) -> Strike:
    def strike(site: Site) -> None:
        site.gate.arm(step, act)
        run(site)
        assert site.gate.reached.is_set()

    return strike


def slow_metadata(step: str) -> Strike:
    def strike(site: Site) -> None:
        site.gate.arm(step, "slow")
        running = threading.Thread(target=run, args=(site,))
        running.start()
        assert site.gate.reached.wait(60)
        assert site.caller.file("GET", "other").status == 200, "nobody waits for the eraser"
        site.gate.go.set()
        running.join()

    return strike


def nodes(hook: Callable[[Request], None], *, after: bool = False) -> Strike:
    """Every node that is asked to erase meets `hook`."""

    def strike(site: Site) -> None:
        for node in site.nodes:
            setattr(node, "after" if after else "before", hook)
        run(site)

    return strike


def one_dead(site: Site) -> None:
    dead = site.nodes[0]
    dead.kill()
    run(site)
    dead.revive()


ERASES = {"erase_interval": 0.05, "delete_grace": 0.0}


def killed(step: str, act: str, *, power: bool = False) -> Strike:
    """The server whose eraser works is killed."""

    def strike(site: Site) -> None:
        with site.doomed(step, act, **ERASES) as doomed:
            doomed.died()
        if power:
            cut_power(site)

    return strike


def killed_at_nodes(*, erased: bool) -> Strike:
    def strike(site: Site) -> None:
        with site.doomed(**ERASES) as doomed:

            def hook(request: Request) -> None:
                if request.path == "/erase-files":
                    doomed.kill()

            for node in site.nodes:
                setattr(node, "after" if erased else "before", hook)
            doomed.died()
            quiet(site)

    return strike


def power_fails_in_a_sync(site: Site) -> None:
    """The power of the API server and all nodes goes while a node syncs that a file is gone."""
    with site.doomed(**ERASES) as doomed:
        for node in site.nodes:
            node.power_fails = doomed.kill
        doomed.died()
        quiet(site)
    cut_power(site)


ERASER: dict[str, list[Strike]] = {
    "bytes-process killed": [killed_at_nodes(erased=False), killed_at_nodes(erased=True)],
    "bytes-power lost": [power_fails_in_a_sync],
    "bytes-disk full": [nodes(refuse(NodeFull("no room"), "/erase-files"))],
    "bytes-disk error": [nodes(refuse(StoreReadOnly("the disk failed"), "/erase-files"))],
    "bytes-peer dead": [one_dead],
    "bytes-peer slow": [nodes(dawdle)],
    "bytes-reply lost": [nodes(lose_answers("/erase-files"), after=True)],
    "bytes-metadata unavailable": [metadata("list_nodes", "away")],
} | {
    f"{name}-{fault}": strikes
    for name, step in (("rows", "rows out"), ("record", "record out"))
    for fault, strikes in {
        "process killed": [killed(step, "killed before"), killed(step, "killed after")],
        "power lost": [killed(step, "killed before", power=True), killed(step, "killed after", power=True)],
        "disk full": [metadata(step, "full")],
        "disk error": [metadata(step, "broken"), metadata(step, "broken after")],
        "peer slow": [slow_metadata(step)],
        "reply lost": [
            metadata(step, act) for act in ("lost", "dropped", "lost and away", "dropped and away")
        ],
        "metadata unavailable": [metadata(step, "away")],
    }.items()
}


@pytest.mark.parametrize("cell", ERASER)
def test_erase(tmp_path: Path, cell: str) -> None:
    for number, strike in enumerate(ERASER[cell]):
        with Site(tmp_path / str(number)) as site:
            gone = Rebinding(site, PURGE)
            kept = site.put("kept", b"goes to the trash " * 5000)
            assert site.caller.file("DELETE", "kept").status == 204
            answer = gone.send()
            assert answer is not None and answer.status == 204
            strike(site)
            site.lift()
            site.wait_writable()
            assert site.shown() == gone.after, "what is not being erased stays as it is"
            assert site.state_of(kept) is FileState.TRASHED
            assert not site.audit() - {gone.file_id}
            record = site.state_of(gone.file_id)
            assert record in (FileState.DELETING, None)
            rows = {row.node_id for row in site.store.replicas(gone.file_id)}
            assert record is not None or not rows, "the record goes last"
            holders = {node.node_id for node in site.api.holders(gone.file_id)}
            assert holders <= rows, "a row goes when its node has confirmed"
            assert_erased_for_good(site, gone)
            assert site.state_of(kept) is FileState.TRASHED and len(site.api.holders(kept)) == 2


def assert_erased_for_good(site: Site, gone: Rebinding) -> None:
    """The next run does the rest; nothing of the file comes back, not after a power cut either."""
    site.erase()
    for _ in range(2):
        assert site.shown() == gone.after
        assert site.audit() == set()
        assert site.state_of(gone.file_id) is None
        assert gone.file_id not in site.api.stored()
        assert all(node.was_erased(gone.file_id) for node in site.nodes), "a late store would be refused"
        cut_power(site)
