"""In which wave a node is, and how it does there."""

import hashlib
import math
from collections.abc import Mapping, Sequence

from edge.rollout.model import NodeView, Progress, Target, Wave

LAPSE_S = 15.0


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
            chosen = left[: max(0, share(wave.percent, len(nodes)) - len(numbers))]
        numbers |= {node.name: number for node in chosen}
        left = [node for node in left if node.name not in numbers]
    return numbers | {node.name: len(waves) - 1 for node in left}


def share(percent: float, size: int) -> int:
    """So many percent of `size`, rounded up."""
    return math.ceil(round(percent * size / 100, 6))  # 1.1 % of 3,000 are 33, whatever floating point says


def failure_limit(target: Target, size: int) -> int:
    """So many failed nodes of `size` stop the rollout; and so many pods are replaced at once."""
    return max(1, share(target.failure_percent, size))


def has_runtime(node: NodeView, target: Target) -> bool:
    """Whether the node's pod is of the target's template."""
    return node.runtime is not None and target.runtime in ("", node.runtime)


def has_old_pod(node: NodeView, target: Target) -> bool:
    """Whether the node's pod is to be replaced."""
    return node.runtime is not None and target.runtime not in ("", node.runtime)


def verdict(node: NodeView, target: Target, *, is_late: bool = False) -> str:
    """`confirmed`, `failed`, `away` or `pending`, for a node whose wave is open."""
    if not node.is_heard:
        return "away"
    if not has_old_pod(node, target):  # what an old pod does is not the new one's fault
        if node.silent_s > target.silence_s or (node.desired == target.version and node.refused):
            return "failed"
        is_there = node.active == target.version and node.state == "serving" and node.is_ready and not node.trouble
        if is_there and has_runtime(node, target) and node.silent_s <= _lapse_s(target):
            return "confirmed"
    return "failed" if is_late else "pending"


def has_lapsed(node: NodeView, target: Target) -> bool:
    """Whether a node that was there is in trouble again: its wave is watched from the beginning."""
    is_unwell = bool(node.trouble) or node.silent_s > _lapse_s(target)
    return node.is_heard and node.active == target.version and has_runtime(node, target) and is_unwell


def judge(
    target: Target,
    progress: Progress,
    nodes: Sequence[NodeView],
    waves: Mapping[str, int],
    *,
    assigned: Mapping[str, int],
    behind_s: Mapping[str, float],
) -> dict[str, str]:
    """The verdict of every node; `waiting`: its wave is not open."""
    found = {}
    for node in nodes:
        if progress.state == "done" or waves[node.name] <= progress.wave:
            late = behind_s.get(node.name, 0.0) > target.deadline_s
            found[node.name] = verdict(node, target, is_late=late)
        else:
            # One that has the release although its wave is not open, as a label or the fleet's size changed.
            has_it = keeps(progress, node.name, assigned)
            found[node.name] = "failed" if has_it and verdict(node, target) == "failed" else "waiting"
    return found


def keeps(progress: Progress, name: str, assigned: Mapping[str, int]) -> bool:
    """Whether a node got the target's version already: it is not sent back because wave numbers moved."""
    return assigned.get(name) == progress.version != progress.settled


def _lapse_s(target: Target) -> float:
    """An answer that is lost on the way is no failure; a node that died is noticed before its wave has baked."""
    return min(LAPSE_S, target.bake_s / 2, target.silence_s)
