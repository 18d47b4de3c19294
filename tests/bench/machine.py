"""The machine and its processes, as /proc shows them: what it is, who uses how much of it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
MIB = 1 << 20
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True)
class Process:
    """One line of the process table. `cpu` is seconds, `rss` bytes."""

    pid: int
    parent: int
    command: str
    cpu: float
    rss: int


def processes() -> dict[int, Process]:
    """Every process of this machine, by id; empty where there is no /proc."""
    found: dict[int, Process] = {}
    for folder in PROC.glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
            fields = (folder / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        pid = int(folder.name)
        cpu = (int(fields[11]) + int(fields[12])) / TICKS
        found[pid] = Process(pid, int(fields[1]), command.strip(), cpu, int(fields[21]) * PAGE)
    return found


def family(roots: Iterable[int], table: dict[int, Process] | None = None) -> list[Process]:
    """The processes `roots` and all that descend from them."""
    table = processes() if table is None else table
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    found: list[Process] = []
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        if pid in table:
            found.append(table[pid])
            waiting.extend(children.get(pid, []))
    return found


def resident(pids: Iterable[int]) -> list[int]:
    """Resident bytes of those of `pids` that run."""
    found = []
    for pid in pids:
        try:
            found.append(int((PROC / str(pid) / "statm").read_text().split()[1]) * PAGE)
        except (OSError, IndexError):  # it ended meanwhile
            continue
    return found


def describe(directory: Path) -> dict[str, object]:
    """What a reader needs to know of the machine to compare figures with another's."""
    return {
        "system": f"{platform.system()} {'.'.join(platform.release().split('.')[:2])}",
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_mib": memory()[0] // MIB,
        "file_system": _file_system(directory),
        "python": platform.python_version(),
        "commit": _commit(),
        "load_before": os.getloadavg()[0],
    }


def memory() -> tuple[int, int]:
    """(all, available) memory in bytes; where /proc is missing, half of all counts as available."""
    try:
        lines = (PROC / "meminfo").read_text().splitlines()
        values = {line.split(":")[0]: int(line.split()[1]) << 10 for line in lines}
        return values["MemTotal"], values["MemAvailable"]
    except (OSError, KeyError, IndexError, ValueError):
        total = PAGE * os.sysconf("SC_PHYS_PAGES")
        return total, total // 2


def free_bytes(directory: Path) -> int:
    """Bytes that may still be written to the disk of `directory`."""
    space = os.statvfs(directory)
    return space.f_bavail * space.f_frsize


def touch_memory(directory: Path, wanted: int) -> int:
    """Fill the page cache with a file of up to `wanted` bytes and drop it again; the bytes written.

    A virtual machine backs a page of memory when it is first used, which costs ten times what writing
    to it costs afterwards. Without this, whoever is measured first pays for all that come later.
    """
    size = min(wanted, memory()[1] * 6 // 10, free_bytes(directory) * 3 // 10) // MIB * MIB
    block = b"\xa5" * MIB
    path = directory / "touch"
    try:
        with path.open("wb", buffering=0) as file:
            for _ in range(size // MIB):
                file.write(block)
    finally:
        path.unlink(missing_ok=True)
    return size


def _processor() -> str:
    try:
        for line in (PROC / "cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or "unknown"


def _file_system(directory: Path) -> str:
    """The type of the file system that holds `directory`: the longest mount point above it."""
    best, kind = "", "unknown"
    try:
        mounts = (PROC / "self" / "mounts").read_text().splitlines()
    except OSError:
        return kind
    where = str(directory.resolve())
    for line in mounts:
        _, point, name = line.split()[:3]
        inside = where == point or where.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, name
    return kind


def _commit() -> str:
    root = Path(__file__).resolve().parents[2]
    git = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def say(text: str) -> None:
    """A line of progress, apart from the results."""
    print(text, file=sys.stderr, flush=True)
