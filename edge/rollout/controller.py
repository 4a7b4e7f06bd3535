"""The rollout controller: look at the fleet, decide, write the assignment, every few seconds until it is ended.

It keeps nothing of its own: progress stands in the assignment's annotation, so it may die at any moment.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge.rollout.decide import Decision, Progress, Target, decide, verdict, wave_numbers
from edge.rollout.fleet import Fleet
from edgedistill.errors import RolloutError

if TYPE_CHECKING:
    from edge.rollout.metrics import Metrics

_log = logging.getLogger("edge.rollout")


@dataclass(frozen=True)
class Look:
    """What one look saw and decided."""

    target: Target
    decision: Decision
    waves: Mapping[str, int]  # of each node
    verdicts: Mapping[str, str]  # of each node; `waiting`: its wave is not open


def control(fleet: Fleet, metrics: "Metrics", *, poll_s: float, stopping: threading.Event) -> None:
    """Go on until `stopping` is set. An API server that does not answer is waited for."""
    while not stopping.is_set():
        try:
            with metrics.look():
                metrics.show(step(fleet))
        except RolloutError as error:
            _log.warning("%s", error)
        stopping.wait(poll_s)


def step(fleet: Fleet) -> Look:
    """One look, one decision, at most one write."""
    target, selector = fleet.target()
    before = fleet.assignment()
    nodes = fleet.nodes(selector, is_tls=target.is_tls)
    stop = before.stop_requested == target.revision
    decision = decide(target, before.progress, nodes, now=time.time(), stop=stop)
    if decision.progress != before.progress or decision.assignment != before.versions:
        fleet.write(decision, before)
    _tell(fleet, before.progress, decision.progress)
    waves = wave_numbers(target.waves, nodes)
    verdicts = {
        node.name: verdict(node, target) if waves[node.name] <= decision.progress.wave else "waiting" for node in nodes
    }
    return Look(target, decision, waves, verdicts)


def _tell(fleet: Fleet, before: Progress | None, after: Progress) -> None:
    """Events for what a person wants to know: a wave opened, the rollout ended."""
    was = (before.version, before.revision, before.wave, before.state) if before else None
    if was == (after.version, after.revision, after.wave, after.state):
        return
    _log.info("release %d: %s: %s", after.version, after.state, after.reason)
    reason = {"rolling": "WaveOpened", "baking": "WaveFinished", "done": "RolloutDone", "stopped": "RolloutStopped"}
    message = f"release {after.version}, wave {after.wave + 1}: {after.reason}"
    fleet.event(reason[after.state], message, is_warning=after.state == "stopped")
