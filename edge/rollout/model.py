"""What a rollout is about: the target, the nodes, the progress and the decision."""

from collections.abc import Mapping
from dataclasses import dataclass, field

STATES = ("rolling", "baking", "done", "stopped")


@dataclass(frozen=True)
class Wave:
    """A part of the fleet: the nodes that carry a label, or so many percent of all nodes, earlier waves included."""

    label: tuple[str, str] | None = None
    percent: float = 0.0


@dataclass(frozen=True)
class Target:
    """What the chart wants."""

    name: str  # of the releases
    version: int
    revision: int  # of the chart's release: a new one tries a stopped version again
    waves: tuple[Wave, ...]
    bake_s: float  # a finished wave is watched so long before the next one opens
    failure_percent: float  # of the fleet; the rollout stops at max(1, so many) failed nodes
    away_percent: float  # of the fleet; with more nodes away no new wave opens
    silence_s: float  # a heard node whose pod does not answer for so long has failed
    deadline_s: float  # a heard node that is not done after so long has failed
    runtime: str  # names the template of the node pods; empty: whatever pod there is will do
    is_tls: bool  # the nodes' ports speak TLS


@dataclass(frozen=True)
class NodeView:
    """One node, as the cluster and its own /status show it."""

    name: str
    labels: Mapping[str, str]
    is_heard: bool  # its kubelet reports
    silent_s: float  # since the first question that its pod did not answer, or since its trouble began
    active: int | None  # version that it serves
    desired: int | None  # version that it was told
    state: str  # of its /status
    refused: str  # why it refuses the desired version; empty: it does not
    runtime: str | None = ""  # of its pod's template; None: it has no pod, or one that is just ending
    is_ready: bool = True  # its pod
    trouble: str = ""  # why its pod does not run, when that is not just its start


@dataclass(frozen=True)
class Progress:
    """What the controller remembers between two looks; it stands in the assignment's annotation."""

    version: int
    revision: int
    settled: int | None  # the version that the fleet last finished
    wave: int
    since: float  # unix seconds: the wave opened
    baking_since: float | None
    state: str  # of STATES
    reason: str
    runtime: str = ""
    settled_runtime: str = ""  # with which the fleet last finished; empty: nobody knows
    away_since: float | None = None  # every node of the wave is away
    deletions: int = 0  # of pods; so that each is a write, which only one of two controllers can make
    name: str = ""  # of the releases; empty: nobody knows
    settled_name: str = ""

    def is_of(self, target: Target) -> bool:
        """Whether this is the progress of that target, and not of an older one."""
        wanted = (target.version, target.revision, target.runtime)
        return (self.version, self.revision, self.runtime) == wanted and self.name in ("", target.name)

    @property
    def is_over(self) -> bool:
        """Whether the rollout has ended, well or not."""
        return self.state in ("done", "stopped")

    @property
    def phase(self) -> tuple[object, ...]:
        """What the controller measures the time of."""
        of = (self.name, self.version, self.revision, self.runtime)
        return (*of, self.wave, self.baking_since, self.away_since)


@dataclass(frozen=True)
class Decision:
    """What happens next."""

    progress: Progress
    assignment: Mapping[str, int]  # a node that is not in it is told nothing
    replace: tuple[str, ...] = ()  # nodes whose pod shall be deleted now: the next one has the target's runtime
    behind: frozenset[str] = frozenset()  # nodes whose turn it is and that are not done: how long is to be measured
    waves: Mapping[str, int] = field(default_factory=dict)  # of each node
    verdicts: Mapping[str, str] = field(default_factory=dict)  # of each node
