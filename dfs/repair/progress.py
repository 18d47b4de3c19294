"""What repair shows and remembers: the shared document `repair`, written by the server that holds the
lease, and `orders`, by which operators ask it for something.

The document is all that a new leader needs to go on where the last one was: how long each node has been
absent so far, and how far every tour has come. Values only, but for `load` and `load_orders`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from typing import Any

from dfs.metadata.contract import MetadataStore

DOCUMENT = "repair"
ORDERS = "orders"

MOST_NAMED = 100
"""Unrecoverable chunks, and problems, that the document names."""


class TourKind(StrEnum):
    """Why the chunks of a node are gone through one by one.

    LOST: it has been absent for too long. RETURNED: it lives again after that; what is too much now is
    trimmed. DRAIN: everything is to leave it. FORGET: it is decommissioned; rows that name it go. REBALANCE:
    ordered by an operator; chunks move to where placement wants them.
    """

    LOST = "lost"
    RETURNED = "returned"
    DRAIN = "drain"
    FORGET = "forget"
    REBALANCE = "rebalance"


@dataclass(frozen=True, slots=True)
class Tour:
    """One walk over the chunks of a node, in as many passes as it takes until one finds nothing to do.

    `cursor` is the last chunk of the current pass that is done with (None: at its beginning), `found` how
    many needed something in this pass, `waiting` how many could not be helped yet. A drain whose rows are
    gone reads the node's own inventory (`in_inventory`): `sequence` is how far, `left` how many records it
    has found so far in this pass. `waits_for` says in words what a tour that does not go on is waiting for.

    `chunks_done`/`chunks_total` and `bytes_done`/`bytes_total` are for people: how much of what the node said it
    had, when the tour began, the first pass has gone through. `copied_bytes` is what was copied on the way.
    """

    kind: TourKind
    node_id: str
    began_at: int
    cursor: tuple[str, int] | None = None
    passes: int = 0
    found: int = 0
    waiting: int = 0
    in_inventory: bool = False
    sequence: int = 0
    left: int = 0
    chunks_done: int = 0
    chunks_total: int = 0
    bytes_done: int = 0
    bytes_total: int = 0
    copied_bytes: int = 0
    waits_for: str = ""

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        value = {name: getattr(self, name) for name in self.__slots__}
        return value | {"kind": str(self.kind), "cursor": None if self.cursor is None else list(self.cursor)}

    def to_short_json(self) -> dict[str, Any]:
        """The same without what is as in a tour that has not begun: a rebalance has one for every node, and a
        document only so much room."""
        return {name: value for name, value in self.to_json().items() if value != _DEFAULTS[name]}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Tour:
        """The tour that `to_json` or `to_short_json` wrote, of this release or one that knew fewer fields."""
        known = {name: value[name] for name in cls.__slots__ if name in value}
        cursor = known.get("cursor")
        known["cursor"] = None if cursor is None else (str(cursor[0]), int(cursor[1]))
        return cls(**(known | {"kind": TourKind(value["kind"])}))


_DEFAULTS = {each.name: each.default for each in fields(Tour)}


@dataclass(frozen=True, slots=True)
class RepairStatus:
    """The state of repair at `at` (ms).

    `leader` and `fence` name the server that works, `generation` the cluster's it works for. `short` counts the
    marked chunks (with `short_more` there are at least so many). `absent` maps nodes that do not answer to the seconds they have been absent
    for; `repaired` names those of them whose chunks all have their copies elsewhere. `waiting` chunks need
    something that is not there now (a node, space). `bytes_per_second` is the rate of the last seconds.
    `whole_at` is the last moment at which a complete round found nothing short, nobody absent and not
    repaired, no tour and no bad chunk (0: never); it speaks for the replication factor `factor` (0: not said). `bad` is how many chunks the nodes say are bad on their
    disks. `rebalanced_at`: when the last order to rebalance was done with. `beats`: the `heartbeat_seq` of the
    absent nodes, by which a new leader sees that one has lived meanwhile.
    """

    at: int = 0
    leader: str = ""
    generation: int = 0
    fence: int = 0
    short: int = 0
    short_more: bool = False
    bad: int = 0
    absent: dict[str, float] = field(default_factory=dict)
    repaired: tuple[str, ...] = ()
    tours: tuple[Tour, ...] = ()
    unrecoverable: int = 0
    unrecoverable_chunks: tuple[tuple[str, int], ...] = ()
    waiting: int = 0
    copied_chunks: int = 0
    copied_bytes: int = 0
    bytes_per_second: float = 0.0
    whole_at: int = 0
    rebalanced_at: int = 0
    beats: dict[str, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()
    factor: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        value = {name: getattr(self, name) for name in self.__slots__}
        return value | {
            "absent": {node_id: round(seconds, 3) for node_id, seconds in self.absent.items()},
            "repaired": list(self.repaired),
            "tours": [tour.to_short_json() for tour in self.tours],
            "unrecoverable_chunks": [list(key) for key in self.unrecoverable_chunks[:MOST_NAMED]],
            "problems": list(self.problems[:MOST_NAMED]),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> RepairStatus:
        """The status that `to_json` wrote, by this release or one that knew fewer fields.

        Raises ValueError, TypeError or KeyError for anything else.
        """
        known = {name: value[name] for name in cls.__slots__ if name in value}
        status = cls(**known)
        return replace(
            status,
            absent={str(node_id): float(seconds) for node_id, seconds in status.absent.items()},
            repaired=tuple(status.repaired),
            beats={str(node_id): int(seq) for node_id, seq in status.beats.items()},
            tours=tuple(Tour.from_json(tour) for tour in known.get("tours", ())),
            unrecoverable_chunks=tuple((str(key[0]), int(key[1])) for key in status.unrecoverable_chunks),
            problems=tuple(status.problems),
        )


@dataclass(frozen=True, slots=True)
class Orders:
    """What operators have asked for: rebalancing (`rebalance_at`, ms; 0: not asked for), the end of it
    (`stop_rebalance_at`), and repair of nodes
    without waiting for DFS_REPAIR_DELAY (`repair_now`: node_id to when it was asked for, ms)."""

    rebalance_at: int = 0
    repair_now: dict[str, int] = field(default_factory=dict)
    stop_rebalance_at: int = 0

    def to_json(self) -> dict[str, Any]:
        """As a JSON object."""
        value: dict[str, Any] = {"repair_now": dict(self.repair_now)}
        named = (("rebalance", self.rebalance_at), ("stop_rebalance", self.stop_rebalance_at))
        return value | {name: {"at": at} for name, at in named if at}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Orders:
        """The orders that `to_json` wrote; what is not understood is no order."""
        asked = value.get("repair_now")
        return cls(
            _asked_at(value.get("rebalance")),
            {str(node_id): _time(at) for node_id, at in asked.items()} if isinstance(asked, Mapping) else {},
            _asked_at(value.get("stop_rebalance")),
        )


def load(store: MetadataStore) -> RepairStatus | None:
    """The state of repair as its leader last wrote it; None when there never was one. Raises
    errors.Unavailable, and ValueError, TypeError or KeyError for a document that a later release wrote."""
    document = store.read_document(DOCUMENT)
    return None if document is None else RepairStatus.from_json(document.value)


def load_orders(store: MetadataStore) -> Orders:
    """The operators' orders. Raises errors.Unavailable."""
    document = store.read_document(ORDERS)
    return Orders() if document is None else Orders.from_json(document.value)


def _asked_at(value: object) -> int:
    return _time(value.get("at")) if isinstance(value, Mapping) else 0


def _time(value: object) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
