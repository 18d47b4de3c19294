"""How long the repair of lost nodes takes, with the plans that the real planner makes."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from dfs.repair.planner import Holder, plan
from tests.sim.layout import Places

MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Mending:
    """What repair does after some nodes are lost. Times in seconds from the loss, the delay included."""

    chunks: int
    gigabytes: float
    sources: int
    targets: int
    seconds: float
    unrecoverable: int
    """Chunks without a copy."""
    done_at: Mapping[int, float]
    """When each group that lost a copy has all of them again."""


def mend(
    places: Places,
    layout: Sequence[Sequence[str]],
    counts: Sequence[int],
    lost: Collection[str],
    *,
    factor: int,
    chunk_bytes: int,
    megabytes_a_second: float,
    node_megabytes_a_second: float,
    delay: float,
) -> Mending:
    """Repair begins after `delay` and copies what is short, one group after the other, at the rate that is set for
    the whole cluster, or less when a node cannot read or write as fast as its share of the work asks."""
    places.without(lost)
    copied = unrecoverable = 0
    done: list[tuple[int, int]] = []
    reads: dict[str, int] = {}
    writes: dict[str, int] = {}
    for group, holders in enumerate(layout):
        if not any(node_id in lost for node_id in holders):
            continue
        standing = {node_id: Holder.LOST if node_id in lost else Holder.GOOD for node_id in holders}
        made = plan(standing, factor=factor, preferred=places.order(group), zones=places.zones)
        if made.unrecoverable:
            unrecoverable += counts[group]
            continue
        copied += counts[group] * len(made.copies)
        done.append((group, copied))
        reads[made.sources[0]] = reads.get(made.sources[0], 0) + counts[group] * len(made.copies)
        for node_id in made.copies:
            writes[node_id] = writes.get(node_id, 0) + counts[group]
    places.without(())
    total = copied * chunk_bytes / MB
    busiest = max([*reads.values(), *writes.values()], default=0) * chunk_bytes / MB
    copying = max(total / megabytes_a_second, busiest / node_megabytes_a_second)
    return Mending(
        chunks=copied,
        gigabytes=total / 1000,
        sources=len(reads),
        targets=len(writes),
        seconds=delay + copying,
        unrecoverable=unrecoverable,
        done_at={group: delay + copying * upto / max(1, copied) for group, upto in done},
    )
