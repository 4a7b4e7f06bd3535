"""What a person asks of a rollout: where it stands, wait for it, stop it."""

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from edge.rollout.api import ApiError
from edge.rollout.fleet import Fleet
from edge.rollout.model import NodeView, Progress, Target
from edge.rollout.verdicts import has_old_pod, verdict, wave_numbers
from edgedistill.errors import RolloutError


@dataclass(frozen=True)
class FleetStatus:
    """The whole fleet at one moment."""

    target: Target
    progress: Progress | None
    versions: Mapping[str, int]  # node -> assigned version
    nodes: list[NodeView]
    last_seen_s: Mapping[str, float]  # a node that nobody knows about is not in it

    @property
    def current(self) -> Progress | None:
        """The progress of the newest target; None: the controller has not seen it yet."""
        return _current(self.progress, self.target)

    @cached_property
    def waves(self) -> Mapping[str, int]:
        """Wave of each node, from 0."""
        return wave_numbers(self.target.waves, self.nodes)

    @property
    def sentence(self) -> str:
        """Where the rollout stands."""
        version, waves = self.target.version, len(self.target.waves)
        now = self.current
        if now is None:
            return f"release {version}: unknown: the controller has not seen this target; see its pod's log"
        if now.is_over:
            return f"release {version}: {now.state}: {now.reason}"
        is_there = [verdict(one, self.target) == "confirmed" for one in self.nodes if self.waves[one.name] <= now.wave]
        where = f"wave {now.wave + 1} of {waves}, {sum(is_there)} of {len(is_there)} nodes have it"
        return f"release {version}: {now.state}, {where}: {now.reason}"

    def document(self) -> dict[str, Any]:
        """As JSON, for programs."""
        return {
            "target": {"name": self.target.name, "version": self.target.version, "waves": len(self.target.waves)},
            "rollout": asdict(self.progress) if self.progress else None,
            "is_current": self.current is not None,
            "sentence": self.sentence,
            "nodes": [self._node(node) for node in sorted(self.nodes, key=lambda one: one.name)],
        }

    def _node(self, node: NodeView) -> dict[str, Any]:
        seen_s = self.last_seen_s.get(node.name)
        return {
            "name": node.name,
            "wave": self.waves[node.name] + 1,
            "assigned": self.versions.get(node.name),
            "active": node.active,
            "state": _state(node),
            "refused": node.refused,
            "reason": node.refused or node.trouble or ("old pod" if has_old_pod(node, self.target) else ""),
            "last_seen_s": None if seen_s is None else round(seen_s, 1),
        }


def look(fleet: Fleet) -> FleetStatus:
    """Where the rollout and every node stand; needs a way to the pods."""
    target, selector = fleet.target()
    seen = fleet.assignment()
    nodes = fleet.nodes(selector, is_tls=target.is_tls)
    last_seen = {node.name: 0.0 for node in nodes if node.is_heard and not node.silent_s and not node.trouble}
    if len(last_seen) < len(nodes):
        now, heard = datetime.now(UTC), fleet.last_heard()
        unseen = (node.name for node in nodes if node.name not in last_seen)
        last_seen |= {name: max(0.0, (now - heard[name]).total_seconds()) for name in unseen if name in heard}
    return FleetStatus(target, seen.progress, seen.versions, nodes, last_seen)


def wait(fleet: Fleet, *, timeout_s: float | None = None, poll_s: float = 2.0, patience_s: float = 0.0) -> str:
    """Wait until the newest target is where it was sent; gives the controller's sentence.

    Args:
        fleet: whose.
        timeout_s: None or 0: as long as its waves can take.
        poll_s: between two looks.
        patience_s: for the first answer of the API server. Afterwards its silence is waited out.

    Raises:
        RolloutError: the rollout was stopped, or did not end in time.
    """
    began = time.monotonic()
    while True:
        try:
            target, now = _standing(fleet)
            break
        except ApiError as error:
            if error.status or time.monotonic() - began > patience_s:
                raise
            time.sleep(poll_s)
    trouble = ""
    while True:
        if now and now.state == "done":
            return now.reason
        if now and now.state == "stopped":
            raise RolloutError(f"release {now.version} was stopped: {now.reason}; see: edgedistill fleet status")
        limit_s = timeout_s or longest_s(target)
        if time.monotonic() - began > limit_s:
            why = now.reason if now else "the controller has not seen this target; see its pod's log"
            raise RolloutError(f"release {target.version} is not out after {limit_s:g} s: {trouble or why}")
        time.sleep(min(poll_s, limit_s))
        try:
            target, now, trouble = *_standing(fleet), ""
        except ApiError as error:
            if 0 < error.status < 500 and error.status != 429:
                raise
            trouble = str(error)  # it was there, and will be again


def _standing(fleet: Fleet) -> tuple[Target, Progress | None]:
    """The target, and its progress; None: the controller has not seen it yet."""
    target, _ = fleet.target()
    return target, _current(fleet.assignment().progress, target)


def _current(progress: Progress | None, target: Target) -> Progress | None:
    return progress if progress and progress.is_of(target) else None


def longest_s(target: Target) -> float:
    """So long a rollout of this target can take, when no node has to wait for its turn."""
    return len(target.waves) * (target.deadline_s + target.bake_s) + 60


def stop(fleet: Fleet) -> str:
    """Stop the newest target and send every node back to the release that the fleet last finished."""
    target, progress = _standing(fleet)
    if progress and progress.is_over:
        raise RolloutError(f"release {target.version} is {progress.state}; to leave it, upgrade the chart to another")
    try:
        fleet.request_stop(target)
    except ApiError as error:
        if error.status == 404:
            raise RolloutError("the controller has sent nothing out yet; see its pod's log") from error
        raise
    return f"release {target.version} is being stopped"


def _state(node: NodeView) -> str:
    if not node.is_heard:
        return "away"
    if node.trouble:
        return "no pod" if node.trouble == "no pod" else "broken"
    return "silent" if node.silent_s else node.state
