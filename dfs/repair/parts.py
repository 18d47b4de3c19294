"""What a term of leadership works with, and by which rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dfs.cluster.membership import Membership
from dfs.cluster.upkeep import Fence, UpkeepCalls
from dfs.metadata.contract import MetadataStore
from dfs.repair.backlog import Mends
from dfs.repair.crew import Crew
from dfs.repair.strays import StrayRule


@dataclass(frozen=True, slots=True)
class Policy:
    """Times in seconds. `delay`: a node absent for so long is lost. `interval`: between looks. `upload_ttl`:
    after that a record whose file is not known goes. `write_seconds`: for so long a write looks after what
    it left short. `settle`: in which a node's last stores end once it refuses new ones."""

    factor: int
    delay: float
    interval: float
    upload_ttl: float
    write_seconds: float
    settle: float


@dataclass(frozen=True, slots=True)
class Parts:
    """`fence`: under which lease changes are made; None when it is lost. `clock` is monotonic."""

    store: MetadataStore
    membership: Membership
    upkeep: UpkeepCalls
    mender: Mends
    rule: StrayRule
    crew: Crew
    policy: Policy
    fence: Callable[[], Fence | None]
    clock: Callable[[], float]
    now_ms: Callable[[], int]
