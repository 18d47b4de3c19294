"""`GET /metrics`: figures for Prometheus. What the cluster shares is the same from every server; figures of
the process that answered carry its id as label `worker` (of several workers, any may answer)."""

from __future__ import annotations

import os

from dfs import __version__, logs
from dfs.api.exposition import CONTENT_TYPE, Families
from dfs.api.service import Service
from dfs.api.status import facts_of, latest_audit, trash_of
from dfs.cluster.view import MemberState
from dfs.errors import DfsError
from dfs.model import AdminState, NodeStatus
from dfs.repair import health
from dfs.repair.auditresult import AuditResult, Kind, Verdict
from dfs.repair.health import Facts, bytes_left
from dfs.repair.progress import RepairStatus, TourKind
from dfs.repair.trash import TrashStatus
from dfs.wire.message import Request, Response

_STATES = (*NodeStatus, "absent", *(state for state in AdminState if state is not AdminState.ACTIVE))


def metrics(service: Service, request: Request) -> Response:
    """All figures; without those of the cluster while metadata cannot be read (`dfs_metadata_up` 0)."""
    found = Families()
    found.gauge("dfs_build_info", "Which release answers; always 1.", 1, version=__version__)
    try:
        facts, latest, trashed = facts_of(service), latest_audit(service), trash_of(service)
    except DfsError as error:
        logs.event("metrics.without_metadata", reason=error.message)
        found.gauge("dfs_metadata_up", "Whether the metadata store answers.", 0)
    else:
        found.gauge("dfs_metadata_up", "Whether the metadata store answers.", 1)
        of_health(found, facts)
        of_repair(found, facts)
        of_audit(found, facts, latest)
        of_trash(found, trashed)
        of_nodes(found, facts)
    of_process(found, service, request)
    text = found.text().encode()
    return Response(200, [("Content-Type", CONTENT_TYPE)], text)


def of_health(found: Families, facts: Facts) -> None:
    """The judgement, one sample a state."""
    judged = health.judge(facts)
    for state in health.State:
        found.gauge("dfs_health", "1 for the state that the data is in.", judged.state is state, state=state)
    found.gauge(
        "dfs_proved_timestamp_seconds",
        "When every chunk was last proved to have its copies; 0: never.",
        judged.proved_at / 1000,
    )


def of_nodes(found: Families, facts: Facts) -> None:
    """Nodes by state, and figures of each."""
    states = [_state(facts, member) for member in facts.members]
    for state in _STATES:
        found.gauge("dfs_nodes", "Registered nodes by state.", states.count(str(state)), state=state)
    found.gauge("dfs_nodes_writable", "Nodes that take chunks.", facts.writable())
    repair = facts.reported()
    for member in facts.members:
        info = member.info
        figures = (
            ("alive", "Whether the node answers.", member.healthy),
            ("free_bytes", "Bytes that chunks may still take.", info.free_bytes),
            ("used_bytes", "Bytes of the node's volume files.", info.used_bytes),
            ("capacity_bytes", "Bytes of the node's file system.", info.capacity_bytes),
            ("chunks", "Chunks that the node holds.", info.chunks),
            ("bad_chunks", "Chunks that the node knows to be bad on its disk.", info.bad_chunks),
            ("scrubbed_timestamp_seconds", "Begin of the last complete scrub; 0: never.", info.scrubbed_at / 1000),
            ("absent_seconds", "How long repair has counted it as absent.", _absent(repair, info.node_id)),
        )
        for name, meaning, value in figures:
            found.gauge(f"dfs_node_{name}", meaning, value, node=info.node_id, zone=info.zone or "")


def of_repair(found: Families, facts: Facts) -> None:
    """What repair last said; nothing when nobody ever led it."""
    repair = facts.repair
    if repair is None:
        return
    prefix = "dfs_repair_"
    found.gauge(f"{prefix}report_age_seconds", "Time since its leader last reported.", (facts.now - repair.at) / 1000)
    found.gauge(f"{prefix}fence", "Fencing number of its lease; grows with every change of leader.", repair.fence)
    found.gauge(f"{prefix}short_chunks", "Chunks marked as short of a copy or bad.", repair.short)
    found.gauge(f"{prefix}bad_chunks", "Chunks that nodes know to be bad.", repair.bad)
    found.gauge(f"{prefix}waiting_chunks", "Chunks that need a node or space.", repair.waiting)
    found.gauge(f"{prefix}unrecoverable_chunks", "Chunks without any good copy that answers.", repair.unrecoverable)
    found.gauge(f"{prefix}left_bytes", "About what is still to do.", int(bytes_left(repair, facts.average_chunk())))
    found.gauge(f"{prefix}bytes_per_second", "Rate of copying in the last seconds.", repair.bytes_per_second)
    found.counter(f"{prefix}copied_chunks_total", "Chunks copied.", repair.copied_chunks)
    found.counter(f"{prefix}copied_bytes_total", "Bytes copied.", repair.copied_bytes)
    found.gauge(
        f"{prefix}whole_timestamp_seconds", "When a round last found nothing to do; 0: never.", repair.whole_at / 1000
    )
    for kind in TourKind:
        tours = sum(tour.kind is kind for tour in repair.tours)
        found.gauge(f"{prefix}tours", "Nodes whose chunks are being gone through.", tours, kind=kind)
    for tour in repair.tours:
        labels = {"kind": str(tour.kind), "node": tour.node_id}
        found.gauge(f"{prefix}tour_done_chunks", "Chunks that a tour has done with.", tour.chunks_done, **labels)
        found.gauge(f"{prefix}tour_chunks", "Chunks of the node when its tour began.", tour.chunks_total, **labels)


def of_audit(found: Families, facts: Facts, latest: AuditResult | None) -> None:
    """The last audit that came to a verdict; nothing but whether one runs when none did."""
    runs = latest is not None and latest.runs(facts.now)
    found.gauge("dfs_audit_running", "Whether an audit is under way.", runs)
    audit = facts.audit
    if audit is None:
        return
    for verdict in Verdict:
        found.gauge("dfs_audit_verdict", "1 for what it said.", audit.verdict is verdict, verdict=verdict)
    for kind in Kind:
        found.gauge("dfs_audit_findings", "What it found, by kind.", audit.count(kind), kind=kind)
    found.gauge("dfs_audit_age_seconds", "Time since it ended.", (facts.now - audit.ended_at) / 1000)
    found.gauge("dfs_audit_files", "Files that it saw.", audit.files)
    found.gauge("dfs_audit_chunks", "Chunks that it saw.", audit.chunks)
    found.gauge("dfs_audit_bytes", "Bytes of those files.", audit.bytes)
    found.gauge(
        "dfs_audit_oldest_verified_timestamp_seconds",
        "When the copy was re-read whose last verification is longest ago; 0: never.",
        audit.oldest_verified / 1000,
    )


def of_trash(found: Families, trashed: TrashStatus | None) -> None:
    """The trash as it was last gone through; nothing before that."""
    if trashed is None:
        return
    found.gauge("dfs_trash_files", "Files in the trash.", trashed.files)
    found.gauge("dfs_trash_bytes", "Bytes of one copy of each.", trashed.bytes)
    found.gauge(
        "dfs_trash_relief_timestamp_seconds",
        "When trash last went before its time because a node was full; 0: never.",
        trashed.relief_at / 1000,
    )


def of_process(found: Families, service: Service, request: Request) -> None:
    """Figures of the process that answers."""
    worker = str(os.getpid())
    stats = {} if request.server is None else request.server.stats()
    counters = {"requests": "Requests so far.", "accepted": "Connections accepted so far."}
    for name, value in stats.items():
        if name in counters:
            found.counter(f"dfs_http_{name}_total", counters[name], value, worker=worker)
        else:
            found.gauge("dfs_http_now", "Connections, workers and waits, by kind.", value, worker=worker, kind=name)
    found.gauge("dfs_buffer_waiting", "Uploads that wait for memory.", service.buffers.waiting, worker=worker)
    found.gauge("dfs_buffer_free_bytes", "Memory that uploads may take.", service.buffers.free_bytes, worker=worker)
    found.counter("dfs_notes_dropped_total", "Notes to nodes dropped.", service.notes.dropped, worker=worker)
    memory, files, threads = _of_proc()
    if memory:
        found.gauge("dfs_process_resident_bytes", "Resident memory.", memory, worker=worker)
        found.gauge("dfs_process_threads", "Threads.", threads, worker=worker)
    if files:
        found.gauge("dfs_process_open_files", "Open descriptors.", files, worker=worker)


def _state(facts: Facts, member: MemberState) -> str:
    state = facts.state(member)
    if state is not AdminState.ACTIVE:
        return state
    return member.info.status if member.healthy else "absent"


def _absent(repair: RepairStatus | None, node_id: str) -> float:
    return repair.absent.get(node_id, 0.0) if repair else 0.0


def _of_proc(proc: str = "/proc/self") -> tuple[int, int, int]:
    """Resident bytes, open descriptors and threads of this process; zeros where the system does not say."""
    try:
        with open(f"{proc}/status", encoding="ascii", errors="replace") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        files = len(os.listdir(f"{proc}/fd")) - 1  # the listing's own
    except OSError:
        return 0, 0, 0
    return int(fields["VmRSS"].split()[0]) * 1024, files, int(fields["Threads"])
