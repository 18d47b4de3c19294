"""The Prometheus text format, version 0.0.4 (prometheus.io/docs/instrumenting/exposition_formats): pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(slots=True)
class Family:
    """One metric: its name, `gauge` or `counter`, its meaning, and its samples."""

    name: str
    kind: str
    help: str
    samples: list[tuple[dict[str, str], float]] = field(default_factory=list)

    def add(self, value: float, labels: Mapping[str, str] | None = None) -> None:
        """One sample more."""
        self.samples.append((dict(labels or {}), value))


class Families:
    """The metrics of one answer, in the order in which they were first named."""

    def __init__(self) -> None:
        self._found: dict[str, Family] = {}

    def gauge(self, name: str, help: str, value: float, **labels: str) -> None:
        """A sample of something that goes up and down."""
        self._add("gauge", name, help, value, labels)

    def counter(self, name: str, help: str, value: float, **labels: str) -> None:
        """A sample of something that only grows; `name` ends in _total."""
        self._add("counter", name, help, value, labels)

    def _add(self, kind: str, name: str, help: str, value: float, labels: Mapping[str, str]) -> None:
        self._found.setdefault(name, Family(name, kind, help)).add(value, labels)

    def text(self) -> str:
        """All of them, as they are sent."""
        return render(self._found.values())


def render(families: Iterable[Family]) -> str:
    """The text of `families`; each has its HELP and TYPE line, and all its samples together."""
    lines = []
    for family in families:
        lines.append(f"# HELP {family.name} {_escaped(family.help)}")
        lines.append(f"# TYPE {family.name} {family.kind}")
        lines.extend(f"{family.name}{_labels(labels)} {number(value)}" for labels, value in family.samples)
    return "\n".join(lines) + "\n"


def number(value: float) -> str:
    """A value as the format has it."""
    if isinstance(value, int):
        return str(int(value))  # also of a bool
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return repr(value)


def _labels(labels: Mapping[str, str]) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_quoted(value)}"' for name, value in labels.items()) + "}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n")


def _quoted(text: str) -> str:
    return _escaped(text).replace('"', '\\"')
