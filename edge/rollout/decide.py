"""What the rollout does next: a pure function of the target, the progress so far and what the nodes say.

    rolling -> baking -> rolling (next wave) -> ... -> done
        any of them -> stopped: every node is sent back to the release that the fleet last finished

One wave is open at a time. A node that is away (its kubelet is not heard) is never a failure: it is assigned the
release of its wave and catches up on return.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

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
    silence_s: float  # a ready node whose pod does not answer for so long has failed
    deadline_s: float  # a wave that is not finished after so long: its unfinished nodes have failed
    runtime: str  # names the template of the node pods; empty: whatever pod there is will do
    is_tls: bool  # the nodes' ports speak TLS


@dataclass(frozen=True)
class NodeView:
    """One node, as the cluster and its own /status show it."""

    name: str
    labels: Mapping[str, str]
    is_heard: bool  # its kubelet reports
    silent_s: float  # since its pod last answered
    active: int | None  # version that it serves
    desired: int | None  # version that it was told
    state: str  # of its /status
    refused: str  # why it refuses the desired version; empty: it does not
    runtime: str = ""  # of its pod's template; empty: no pod
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

    def is_of(self, target: Target) -> bool:
        """Whether this is the progress of that target, and not of an older one."""
        return (self.version, self.revision) == (target.version, target.revision)


@dataclass(frozen=True)
class Decision:
    """The next progress, and the version of each node; a node that is not in it is told nothing."""

    progress: Progress
    assignment: Mapping[str, int]


def decide(
    target: Target, progress: Progress | None, nodes: Sequence[NodeView], *, now: float, stop: bool = False
) -> Decision:
    """The next step of a rollout.

    Args:
        target: what is wanted.
        progress: where the rollout stands; None: nothing was ever rolled out.
        nodes: the whole fleet.
        now: unix seconds.
        stop: the operator asks to stop this target.
    """
    if progress is None or not progress.is_of(target):
        progress = _start(target, progress, now)
    waves = wave_numbers(target.waves, nodes)
    if progress.state not in ("done", "stopped"):
        progress = _stopped(progress, "the operator stopped it") if stop else _next(target, progress, nodes, waves, now)
    return Decision(progress, _assignment(progress, nodes, waves))


def wave_numbers(waves: Sequence[Wave], nodes: Sequence[NodeView]) -> dict[str, int]:
    """Wave of each node. The order inside the fleet is that of the names' SHA-256, so it does not depend on names.

    A label that no node carries falls back to one node, so that no release reaches the fleet without a canary.
    """
    left = sorted(nodes, key=lambda node: hashlib.sha256(node.name.encode()).digest())
    numbers: dict[str, int] = {}
    for number, wave in enumerate(waves):
        if wave.label:
            key, value = wave.label
            chosen = [node for node in left if node.labels.get(key) == value] or (left[:1] if number == 0 else [])
        else:
            chosen = left[: max(0, math.ceil(wave.percent / 100 * len(nodes)) - len(numbers))]
        numbers |= {node.name: number for node in chosen}
        left = [node for node in left if node.name not in numbers]
    return numbers | {node.name: len(waves) - 1 for node in left}


def verdict(node: NodeView, target: Target, *, is_late: bool = False) -> str:
    """`confirmed`, `failed`, `away` or `pending`, for a node whose wave is open."""
    if not node.is_heard:
        return "away"
    if node.silent_s > target.silence_s or (node.desired == target.version and node.refused):
        return "failed"
    if node.active == target.version and node.state == "serving" and node.silent_s == 0:
        return "confirmed"
    return "failed" if is_late else "pending"


def _start(target: Target, before: Progress | None, now: float) -> Progress:
    settled = None if before is None else before.version if before.state == "done" else before.settled
    return Progress(target.version, target.revision, settled, 0, now, None, "rolling", "wave 1 is open")


def _next(
    target: Target, progress: Progress, nodes: Sequence[NodeView], waves: Mapping[str, int], now: float
) -> Progress:
    opened = [node for node in nodes if waves[node.name] <= progress.wave]
    is_late = now - progress.since > target.deadline_s
    verdicts = {node.name: verdict(node, target, is_late=is_late and progress.baking_since is None) for node in opened}
    failed = sorted(name for name, one in verdicts.items() if one == "failed")
    if len(failed) >= max(1, math.ceil(target.failure_percent / 100 * len(nodes))):
        return _stopped(progress, _why(failed, nodes))
    this_wave = [one for name, one in verdicts.items() if waves[name] == progress.wave]
    if not this_wave:
        return _open_next(target, progress, now) if nodes else replace(progress, since=now, reason="no node yet")
    if "confirmed" not in this_wave and "pending" not in this_wave:
        if "failed" in this_wave:
            return _stopped(progress, _why(failed, nodes))
        if is_late:
            return _stopped(progress, f"every node of wave {progress.wave + 1} was away for {target.deadline_s:g} s")
        return replace(progress, reason=f"every node of wave {progress.wave + 1} is away")
    if "pending" in this_wave:
        done = f"{this_wave.count('confirmed')} of {len(this_wave)}"
        return replace(progress, state="rolling", baking_since=None, reason=f"wave {progress.wave + 1}: {done} nodes")
    if progress.baking_since is None:
        progress = replace(progress, state="baking", baking_since=now, reason=f"wave {progress.wave + 1} is watched")
    if now - (progress.baking_since or now) < target.bake_s:
        return progress
    away = sum(not node.is_heard for node in nodes)
    if away > target.away_percent / 100 * len(nodes):
        return replace(progress, reason=f"{away} of {len(nodes)} nodes are away; no new wave opens")
    return _open_next(target, progress, now)


def _open_next(target: Target, progress: Progress, now: float) -> Progress:
    if progress.wave + 1 >= len(target.waves):
        reason = f"release {target.version} is where it was sent"
        return replace(progress, state="done", reason=reason, baking_since=None)
    wave = progress.wave + 1
    return replace(
        progress, wave=wave, since=now, baking_since=None, state="rolling", reason=f"wave {wave + 1} is open"
    )


def _stopped(progress: Progress, reason: str) -> Progress:
    return replace(progress, state="stopped", reason=reason, baking_since=None)


def _why(failed: Sequence[str], nodes: Sequence[NodeView]) -> str:
    first = next(node for node in nodes if node.name == failed[0])
    what = first.refused or ("its pod is silent" if first.silent_s else f"it is still {first.state}")
    more = f" and {len(failed) - 1} more" if len(failed) > 1 else ""
    return f"node {first.name}{more} failed: {what}"


def _assignment(progress: Progress, nodes: Sequence[NodeView], waves: Mapping[str, int]) -> dict[str, int]:
    assignment = {}
    for node in nodes:
        is_open = progress.state == "done" or (progress.state != "stopped" and waves[node.name] <= progress.wave)
        version = progress.version if is_open else progress.settled
        if version is not None:
            assignment[node.name] = version
    return assignment
