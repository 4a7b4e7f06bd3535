"""The rollout controller: look at the fleet, decide, write the assignment, every few seconds until it is ended.

It keeps nothing of its own: progress stands in the assignment's annotation, so it may die at any moment.
"""

import logging
import threading
import time

from edge.rollout.decide import Progress, decide
from edge.rollout.fleet import Fleet
from edgedistill.errors import RolloutError

_log = logging.getLogger("edge.rollout")


def control(fleet: Fleet, *, poll_s: float, stopping: threading.Event) -> None:
    """Go on until `stopping` is set. An API server that does not answer is waited for."""
    while not stopping.is_set():
        try:
            step(fleet)
        except RolloutError as error:
            _log.warning("%s", error)
        stopping.wait(poll_s)


def step(fleet: Fleet) -> Progress:
    """One look, one decision, at most one write."""
    target, selector = fleet.target()
    before = fleet.assignment()
    nodes = fleet.nodes(selector)
    stop = before.stop_requested == target.revision
    decision = decide(target, before.progress, nodes, now=time.time(), stop=stop)
    if decision.progress != before.progress or decision.assignment != before.versions:
        fleet.write(decision, before)
    _tell(fleet, before.progress, decision.progress)
    return decision.progress


def _tell(fleet: Fleet, before: Progress | None, after: Progress) -> None:
    """Events for what a person wants to know: a wave opened, the rollout ended."""
    was = (before.version, before.revision, before.wave, before.state) if before else None
    if was == (after.version, after.revision, after.wave, after.state):
        return
    _log.info("release %d: %s: %s", after.version, after.state, after.reason)
    reason = {"rolling": "WaveOpened", "baking": "WaveFinished", "done": "RolloutDone", "stopped": "RolloutStopped"}
    message = f"release {after.version}, wave {after.wave + 1}: {after.reason}"
    fleet.event(reason[after.state], message, is_warning=after.state == "stopped")
