"""What is asked of dfs, as ratios within one run, and whether a report shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench import limits
from tests.bench.report import KIB, MIB, Report, figure_name

Find = Callable[[Report], float | None]

SEED_UP = "seed upload, 1 KiB chunks, 64 connections"
SEED_DOWN = "seed download, 1 KiB chunks, 64 connections"
ONE_DOWN = ", one node down"
BEFORE = ", before a node went down"
EMPTY = ", empty store"
FILLED = ", 1,000,000 chunks stored"
FILLED_OLD = ", any of 1,000,000 chunks stored"
ROW_GROWTH = "node RSS with 1,000,000 chunks stored, growth, MiB"
RESTART_KILLED = "node restart after kill -9 with 1,000,000 chunks stored, s"
RESTART_CLEAN = "node restart after a clean stop with 1,000,000 chunks stored, s"
LISTED = "listing by pages of 1,000, paths/s"
FLAT = "listing, time of the last pages / of the first pages"
API_RSS = "API RSS, most during 32 transfers, MiB"
NODE_RSS = "node RSS, most of any node during 32 transfers, MiB"


def rate(figure: str, line: str = "dfs") -> Find:
    """Requests a second."""

    def find(report: Report) -> float | None:
        sample = report.sample(figure, line)
        return sample.rate if sample else None

    return find


def speed(figure: str, line: str = "dfs") -> Find:
    """10^6 bytes a second."""

    def find(report: Report) -> float | None:
        sample = report.sample(figure, line)
        return sample.mb if sample else None

    return find


def value(name: str, share: float = 1.0) -> Find:
    """`share` of a value or limit."""

    def find(report: Report) -> float | None:
        found = report.value(name)
        return None if found is None else found * share

    return find


@dataclass(frozen=True)
class Target:
    """`of` must be at least `bound` times `against` (or `bound` itself); at most, when `ceiling`."""

    row: str
    asked: str
    of: Find
    bound: float
    against: Find | None = None
    ceiling: bool = False

    def judge(self, report: Report) -> Verdict | None:
        """None when something that it takes was not measured."""
        found = self.of(report)
        other = self.against(report) if self.against else 1.0
        if found is None or not other:
            return None
        ratio = found / other
        met = ratio <= self.bound if self.ceiling else ratio >= self.bound
        return Verdict(found, other if self.against else None, ratio, met)


@dataclass(frozen=True)
class Verdict:
    """What was found, what it was compared with (None: an absolute bound), their ratio, and the answer."""

    found: float
    against: float | None
    ratio: float
    met: bool


_NAMES = {"seaweedfs": "SeaweedFS", "swift": "Swift", "nginx": "nginx"}


def _against(method: str, size: int, clients: int, row: str, **bounds: float) -> list[Target]:
    figure = figure_name(method, size, clients)
    return [
        Target(row, f"≥ {bound:g} × {_NAMES[line]}", rate(figure), bound, rate(figure, line))
        for line, bound in bounds.items()
    ]


def _both(row: str, first: str, second: str, bound: float, asked: str, methods: tuple[str, ...]) -> list[Target]:
    """The 1 KiB figures with suffix `first` against those with `second`."""
    found = []
    for method in methods:
        figure = figure_name(method, KIB, 8)
        found.append(Target(f"{row}, {method}", asked, rate(figure + first), bound, rate(figure + second)))
    return found


TARGETS: tuple[Target, ...] = (
    *_against("GET", KIB, 8, "1 KiB GET, 8 clients", seaweedfs=3, nginx=0.5),
    *_against("PUT", KIB, 8, "1 KiB PUT, 8 clients", seaweedfs=2, swift=12, nginx=0.25),
    *_against("PUT", 64 * KIB, 8, "64 KiB PUT, 8 clients", seaweedfs=2),
    *_against("GET", 64 * KIB, 8, "64 KiB GET, 8 clients", seaweedfs=2),
    *_against("PUT", MIB, 8, "1 MiB PUT, 8 clients", seaweedfs=3),
    *_against("GET", MIB, 8, "1 MiB GET, 8 clients", seaweedfs=1.2, nginx=0.5),
    *_against("PUT", 64 * MIB, 1, "64 MiB PUT, 1 client", seaweedfs=4, swift=1.5),
    Target("64 MiB PUT, 1 client", "≥ 0.5 × (raw write rate ÷ 2)", speed(figure_name("PUT", 64 * MIB, 1)), 0.5,
           value(limits.RAW_WRITE, 0.5)),
    *_against("GET", 64 * MIB, 1, "64 MiB GET, 1 client", seaweedfs=1, nginx=0.5),
    *_against("GET", 64 * MIB, 8, "64 MiB GET, 8 clients", seaweedfs=1, nginx=0.5),
    Target("seed protocol, up", "≥ 3,000 chunks/s", rate(SEED_UP), 3000),
    Target("seed protocol, down", "≥ 6,000 chunks/s", rate(SEED_DOWN), 6000),
    *_both("one node down, 1 KiB", ONE_DOWN, BEFORE, 0.8, "≥ 0.8 × healthy", ("PUT", "GET")),
    *_both("1 M chunks stored, 1 KiB", FILLED, EMPTY, 0.9, "≥ 0.9 × an empty store's", ("PUT", "GET")),
    *_both("1 M chunks stored, any of them, 1 KiB", FILLED_OLD, EMPTY, 0.9, "≥ 0.9 × an empty store's", ("GET",)),
    Target("1 M chunks stored, node RSS", "≤ 30 MiB more", value(ROW_GROWTH), 30, ceiling=True),
    Target("1 M chunks stored, ready after kill -9", "≤ 2 s", value(RESTART_KILLED), 2, ceiling=True),
    Target("1 M chunks stored, ready after a clean stop", "≤ 2 s", value(RESTART_CLEAN), 2, ceiling=True),
    Target("listing 100,000 paths", "≥ 50,000 paths/s", value(LISTED), 50_000),
    Target("listing, last pages against first", "≤ 1.25 × (flat)", value(FLAT), 1.25, ceiling=True),
    Target("32 transfers of 1 GiB, API RSS", "≤ 256 MiB", value(API_RSS), 256, ceiling=True),
    Target("32 transfers of 1 GiB, RSS of each node", "≤ 256 MiB", value(NODE_RSS), 256, ceiling=True),
)  # fmt: skip
