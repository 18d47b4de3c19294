"""What a run found: samples by figure and store, single values, what the machine can do; kept as JSON."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.load import Outcome

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30
FORMAT = 1


def size_name(size: int) -> str:
    """`1 KiB`, `64 MiB`."""
    for unit, name in ((GIB, "GiB"), (MIB, "MiB"), (KIB, "KiB")):
        if size >= unit and size % unit == 0:
            return f"{size // unit} {name}"
    return f"{size} B"


def figure_name(method: str, size: int, clients: int) -> str:
    """The name of a figure: `PUT 1 KiB, 8 clients`."""
    return f"{method} {size_name(size)}, {clients} client{'s' * (clients > 1)}"


@dataclass
class Sample:
    """One measurement. `rate` is requests a second, `mb` 10^6 bytes a second; `cpu_us` are microseconds of
    processor time a request by role of the store, `load_us` that of the load itself."""

    rate: float
    mb: float
    median_ms: float
    p99_ms: float
    count: int
    load_us: float
    cpu_us: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, outcome: Outcome, size: int, cpu: dict[str, float] | None = None) -> Sample:
        """From what a phase of requests of `size` bytes came to, `cpu` seconds by role having been used."""
        count = outcome.count
        return cls(
            outcome.rate, outcome.rate * size / 1e6, outcome.quantile(0.5) * 1e3, outcome.quantile(0.99) * 1e3,
            count, outcome.cpu / count * 1e6, {role: used / count * 1e6 for role, used in (cpu or {}).items()},
        )  # fmt: skip

    @property
    def cpu(self) -> float:
        """Microseconds of the store's processes together."""
        return sum(self.cpu_us.values())


def middle(samples: Iterable[Sample]) -> Sample:
    """The median of each part."""
    chosen = list(samples)
    roles = sorted({role for sample in chosen for role in sample.cpu_us})
    median = statistics.median
    return Sample(
        median(s.rate for s in chosen), median(s.mb for s in chosen), median(s.median_ms for s in chosen),
        median(s.p99_ms for s in chosen), round(median(s.count for s in chosen)), median(s.load_us for s in chosen),
        {role: median(s.cpu_us.get(role, 0.0) for s in chosen) for role in roles},
    )  # fmt: skip


@dataclass
class Report:
    """Everything found. `samples[figure][line]` and `values[name]` have an entry for each run."""

    machine: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    stores: dict[str, dict[str, Any]] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    limits: dict[str, list[float]] = field(default_factory=dict)
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    values: dict[str, list[float]] = field(default_factory=dict)
    curves: dict[str, list[dict[str, float]]] = field(default_factory=dict)

    def add(self, figure: str, line: str, sample: Sample) -> None:
        """Keep a sample."""
        self.samples.setdefault(figure, {}).setdefault(line, []).append(sample)

    def note(self, name: str, value: float) -> None:
        """Keep a single value."""
        self.values.setdefault(name, []).append(value)

    def sample(self, figure: str, line: str) -> Sample | None:
        """The median of a figure, None when it was not measured."""
        found = self.samples.get(figure, {}).get(line)
        return middle(found) if found else None

    def value(self, name: str) -> float | None:
        """The median of a value or of a limit, None when it was not measured."""
        found = self.values.get(name) or self.limits.get(name)
        return statistics.median(found) if found else None

    def lines(self) -> list[str]:
        """The stores' lines that have any sample, in the order of `stores`."""
        measured = {line for by_line in self.samples.values() for line in by_line}
        return [line for line in self.stores if line in measured]

    def figures(self) -> list[str]:
        """The figures that have samples."""
        return [figure for figure, by_line in self.samples.items() if by_line]

    def write(self, path: Path) -> None:
        """Keep everything, with the medians beside the runs for who reads it with other tools."""
        medians = {
            figure: {line: asdict(middle(found)) for line, found in by_line.items()}
            for figure, by_line in self.samples.items()
        }
        path.write_text(json.dumps({"format": FORMAT, **asdict(self), "medians": medians}, indent=1) + "\n")

    @classmethod
    def read(cls, path: Path) -> Report:
        """What `write` wrote. Raises ValueError for anything else."""
        kept = json.loads(path.read_text())
        if not isinstance(kept, dict) or kept.pop("format", None) != FORMAT:
            raise ValueError(f"{path} is not a report of this bench")
        kept.pop("medians")
        kept["samples"] = {
            figure: {line: [Sample(**sample) for sample in found] for line, found in by_line.items()}
            for figure, by_line in kept["samples"].items()
        }
        return cls(**kept)
