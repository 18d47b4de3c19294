"""Answers of `GET /status` and of changes of nodes, as a server would give them."""

from __future__ import annotations

from typing import Any

GIB = 1 << 30
NOW = 1_772_366_405_000
DAY = 86_400_000


def a_node(number: int, **changes: Any) -> dict[str, Any]:
    used = 200 + number * 7 % 50
    return {
        "node_id": f"node{number}", "zone": f"us-east-1{'abc'[number % 3]}", "address": "10.0.0.1", "port": 8081,
        "status": "active", "admin_state": "active", "admin_until": 0, "alive": True, "suspect": False,
        "writable": True, "absent_seconds": None, "repaired": False, "capacity_bytes": 1000 * GIB,
        "used_bytes": used * GIB, "free_bytes": (990 - used) * GIB, "fill": used / 990,
        "chunks": 1_234_567 + number, "bad_chunks": 0, "scrubbed_at": NOW - 3 * DAY, "last_seen": NOW, "version": "0.4.0",
    } | changes  # fmt: skip


def a_tour(kind: str, node_id: str, **changes: Any) -> dict[str, Any]:
    return {
        "kind": kind, "node_id": node_id, "chunks_done": 12_000, "chunks_total": 30_000, "passes": 0,
        "seconds_left": 430.0, "waits_for": "",
    } | changes  # fmt: skip


def a_repair(**changes: Any) -> dict[str, Any]:
    return {
        "leading": True, "at": NOW - 1000, "short": 0, "short_more": False, "bad": 0, "waiting": 0,
        "unrecoverable": 0, "unrecoverable_chunks": [], "absent": {}, "repaired": [], "tours": [],
        "copied_chunks": 0, "copied_bytes": 0, "bytes_per_second": 0.0, "bytes_left": 0, "seconds_left": None,
        "whole_at": NOW - 4000, "problems": [],
    } | changes  # fmt: skip


def an_audit(**changes: Any) -> dict[str, Any]:
    return {
        "ended_at": NOW - 2 * DAY, "verify": True, "files": 12_345, "chunks": 1_851_855, "bytes": 321 * GIB,
        "verdict": "whole", "reason": "", "phase": "", "done": 0, "total": 0,
    } | changes  # fmt: skip


def a_warning(text: str, command: str, *, hands: bool = True) -> dict[str, Any]:
    return {"code": "some", "text": text, "command": command, "hands": hands}


def a_status(*nodes: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {
        "at": NOW,
        "version": "0.4.0",
        "cluster": {
            "cluster_id": "9f3a41c2-7c15-4a9e-9f0a-1d2c3b4a5968", "generation": 1, "factor": 2, "strategy": "sync",
            "repair_delay": 600.0,
        },
        "health": {
            "state": "healthy", "sentence": "repair found every chunk with its 2 copies 4 s ago",
            "proved_at": NOW - 4000, "proved_by": "repair",
        },
        "totals": {
            "nodes": len(nodes), "answering": sum(node["alive"] for node in nodes),
            "writable": sum(node["writable"] for node in nodes),
            "capacity_bytes": sum(node["capacity_bytes"] for node in nodes),
            "used_bytes": sum(node["used_bytes"] for node in nodes),
            "free_bytes": sum(node["free_bytes"] for node in nodes if node["writable"]), "chunks": 1,
        },
        "nodes": list(nodes),
        "repair": a_repair(),
        "audit": an_audit(),
        "audit_running": None,
        "trash": None,
        "warnings": [],
    } | changes  # fmt: skip


def a_change(action: str = "drain", **changes: Any) -> dict[str, Any]:
    return {
        "node_id": "node3", "action": action, "state": "active", "to": "draining", "until": 0, "planned": False,
        "changed": True, "refused": [], "risks": [], "bytes": 12 * GIB, "chunks": 12_345, "room": 100 * GIB,
        "fits": True, "others": 3, "factor": 2, "seconds": 257.0,
    } | changes  # fmt: skip
