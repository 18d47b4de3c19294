"""A node that is gone for good, bits that flip on a disk: everything heals, and no client notices."""

from __future__ import annotations

import hashlib
import os
import random
import re
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from tests.support.caller import Caller
from tests.support.cluster import Cluster, eventually
from tests.support.load import Load
from tests.support.operators import REPAIR_SECONDS, Operator
from tests.support.rot import Key, flip_chunks

LONG = os.environ.get("LONG") == "1"
ROT_FILES = int(os.environ.get("ROT_FILES", "20000" if LONG else "600"))
ROT_SHARE = 100
FILES = int(os.environ.get("HEAL_FILES", "20000" if LONG else "2000"))
SIZES = (100, 3_000, 20_000, 70_000, 150_000)

REPAIR_DELAY = 3
SETTINGS = {
    "DFS_REPAIR_DELAY": str(REPAIR_DELAY),
    "DFS_REPAIR_INTERVAL": "0.5",
    "DFS_REPAIR_MBPS": "1000",
    "DFS_NODE_TIMEOUT": "2",
    "REPLICATION_TIMEOUT": "8",
}


def test_a_node_killed_for_good_under_load_is_replaced_by_copies_and_trimmed_when_it_returns(tmp_path: Path) -> None:
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:5.1f} s: {what}")

    with Cluster(tmp_path, environ=SETTINGS) as cluster:
        operator = Operator(cluster)
        with Load(cluster, names=FILES, sizes=SIZES, pause=0.04) as load:
            load.fill()
            say(f"{FILES} files stored")
            load.start()
            load.wait_for(50)
            victim = cluster.node("node2")
            victim.kill()
            say(f"node2 killed; its delay is {REPAIR_DELAY} s")
            operator.wait_repaired("node2")
            say("all that it held is copied")
            say(f"audit: {operator.audit()['reason']}")
            victim.start()
            cluster.wait_alive({node.name for node in cluster.nodes})
            say("node2 is back")
            eventually(lambda: not operator.repair()["repaired"], "repair has noticed that it is back")
            load.wait_for(100)
        load.assert_clean()
        operator.wait_whole()
        say("trimmed")
        trimmed = operator.audit()
        say(f"audit: {trimmed['reason']}; {load.summary()}")
        assert not trimmed["counts"]["over"], "copies that are too many stay"
        load.verify()
        say("verified")


def test_bits_that_flip_are_noticed_by_no_reader_all_found_by_one_scrub_and_all_healed(
    tmp_path: Path, rng: random.Random
) -> None:
    with Cluster(tmp_path, environ=SETTINGS | {"DFS_CACHE_BYTES": "0"}) as cluster:
        operator = Operator(cluster)
        with Load(cluster, names=ROT_FILES, sizes=SIZES, mix={"get": 10, "list": 1}, pause=0.02) as load:
            load.fill()
            load.start()
            node = cluster.node("node1")
            checksums = inventory(node.port)

            read = set(rng.sample(sorted(checksums), 3))
            flip_chunks(tmp_path / "node1", read, rng)
            for key in read:
                read_from(cluster.port, "node1", key, checksums[key])
            wait_healed(node.port, read, checksums)
            print(f"{len(read)} chunks healed because they were read")

            spoilt = set(rng.sample(sorted(checksums), max(5, len(checksums) // ROT_SHARE)))
            flip_chunks(tmp_path / "node1", spoilt, rng)
            load.wait_for(150, "get")
            before = found_by(node.said(), spoilt)
            scrub(node.port)
            found = found_by(node.log.read_text(), spoilt)
            print(f"{len(spoilt)} of {len(checksums)} chunks spoilt, {len(before)} found by readers, {len(found)} in all")
            assert found == spoilt, "a scrub that passes bad bytes by"
            wait_healed(node.port, spoilt, checksums)
            load.wait_for(150, "get")
        load.assert_clean()
        operator.wait_whole()
        print(operator.audit()["reason"])
        load.verify()


def inventory(port: int) -> dict[Key, str]:
    """Every chunk that a node holds, with its checksum; empty ones left out."""
    caller = Caller(port)
    found: dict[Key, str] = {}
    after: Any = 0
    while after is not None:
        page: dict[str, Any] = caller.call("GET", f"/inventory?after={after}&limit=5000").json
        found |= {(each["file_id"], each["chunk_index"]): each["checksum"] for each in page["chunks"] if each["length"]}
        after = page["next"]
    caller.close()
    return found


def read_from(port: int, node_id: str, key: Key, checksum: str) -> None:
    """Read a chunk, if possible from that node: what comes is right, wherever it came from."""
    caller = Caller(port)
    target = f"/proxy-chunk-download?file_id={key[0]}&chunk_index={key[1]}&node_id={node_id}"
    answer = caller.call("GET", target)
    assert answer.status == 200 and hashlib.sha256(answer.body).hexdigest() == checksum
    caller.close()


def scrub(port: int) -> None:
    """Order a pass over everything, and wait until it is complete."""
    caller = Caller(port)
    began = caller.call("POST", "/scrub?mbps=1000").json["began_at"]

    def complete() -> bool:
        state: Any = caller.call("GET", "/healthz").json["scrub"]
        return bool(state["scrubbed_at"] == began)

    eventually(complete, "the scrub has read everything")
    caller.close()


def found_by(log: str, keys: Collection[Key]) -> set[Key]:
    """Those of `keys` that the node has reported as bad."""
    said = re.findall(r"disk\.report kind=corrupt\w* .*file_id=(\S+) chunk_index=(\d+)", log)
    return {(file_id, int(index)) for file_id, index in said} & set(keys)


def wait_healed(port: int, keys: Collection[Key], checksums: dict[Key, str]) -> None:
    """Wait until the node reads back good bytes of all `keys` from its disk, or need not have them any more
    (whether others have them instead is for the audit to say)."""
    caller = Caller(port)

    def healed(key: Key) -> bool:
        answer = caller.call("POST", f"/verify-chunk?file_id={key[0]}&chunk_index={key[1]}")
        return answer.status == 404 or (answer.status == 200 and answer.json["checksum"] == checksums[key])

    eventually(lambda: all(map(healed, keys)), "every spoilt chunk is good again", REPAIR_SECONDS)
    caller.close()
