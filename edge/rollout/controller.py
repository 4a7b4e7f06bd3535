"""The rollout controller: look at the fleet, decide, write the assignment, every few seconds until it is ended.

Progress stands in the assignment's annotation, so it may die at any moment. What it measures itself (how long a pod is
silent, how long a node is behind) begins anew then: nothing counts against a node that nobody watched.
"""

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge.rollout.decide import decide
from edge.rollout.fleet import Fleet, stop_mark
from edge.rollout.memory import Memory
from edge.rollout.model import Decision, Progress, Target
from edgedistill.errors import RolloutError

if TYPE_CHECKING:
    from edge.rollout.metrics import Metrics

_log = logging.getLogger("edge.rollout")
_REASONS = {"rolling": "WaveOpened", "baking": "WaveFinished", "done": "RolloutDone", "stopped": "RolloutStopped"}


@dataclass(frozen=True)
class Look:
    """What one look saw and decided."""

    target: Target
    decision: Decision
    replaced: int  # pods that were deleted
    statuses: Mapping[str, Mapping[str, Any] | None]  # uid of a pod -> what it said; None: nothing


class Controller:
    """Moves one fleet."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._began = time.time() - time.monotonic()  # a clock that jumps later changes nothing
        self._memory = Memory()
        self._told: set[tuple[object, ...]] = set()

    def step(self) -> Look:
        """One look, one decision, at most one write; then the pods that are to go."""
        target, selector = self._fleet.target()
        before = self._fleet.assignment()
        nodes = self._fleet.nodes(selector, is_tls=target.is_tls)
        now = time.monotonic()
        memory = self._memory = self._memory.of(target, before.progress, now)
        decision = decide(
            target,
            before.progress,
            nodes,
            now=self._began + now,
            assigned=before.versions,
            behind_s=memory.behind_s(now),
            watched_s=now - memory.phase_since,
            resting=memory.resting(now),
            stop=before.stop_requested == stop_mark(target),
        )
        memory.saw(decision, target, now)
        if decision.progress != before.progress or decision.assignment != before.versions:
            self._fleet.write(decision, before, target)
            self._tell(before.progress, decision.progress)
        # After the write, which each deletion changes: of two controllers only one gets here.
        replaced = sum(self._replace(name, target) for name in decision.replace)
        return Look(target, decision, replaced, self._fleet.statuses())

    def _replace(self, node: str, target: Target) -> bool:
        pod = self._fleet.replace_pod(node)
        self._memory.deleted(node, time.monotonic())
        if pod:
            self._event("PodReplaced", f"pod {pod} of node {node} was deleted for runtime {target.runtime}")
        return bool(pod)

    def _tell(self, before: Progress | None, after: Progress) -> None:
        """Events for what a person wants to know: a wave opened, the rollout ended. A wave that wavers is told once."""
        if before and (before.phase[:5], before.state) == (after.phase[:5], after.state):
            return
        mark = (*after.phase[:5], after.state)
        if mark not in self._told:
            message = f"release {after.version}, wave {after.wave + 1}: {after.reason}"
            self._event(_REASONS[after.state], message, is_warning=after.state == "stopped")
        self._told = {one for one in self._told if one[:4] == mark[:4]} | {mark}

    def _event(self, reason: str, message: str, *, is_warning: bool = False) -> None:
        _log.info("%s: %s", reason, message)
        try:
            self._fleet.event(reason, message, is_warning=is_warning)
        except RolloutError as error:  # what was done is done; it stands in the log, and in the assignment
            _log.warning("the Event %s could not be written: %s", reason, error)


def control(fleet: Fleet, metrics: "Metrics", *, poll_s: float, stopping: threading.Event) -> None:
    """Go on until `stopping` is set. An API server that does not answer is waited for."""
    controller, said = Controller(fleet), ""
    while not stopping.is_set():
        try:
            with metrics.look():
                metrics.show(controller.step())
            said = ""
        except RolloutError as error:
            if str(error) != said:  # once, not every few seconds
                _log.warning("%s", error)
            said = str(error)
        except Exception:  # a fault of its own: the next look may fare better, and a restart would only do the same
            _log.exception("a look ended in a fault of the controller")
        stopping.wait(poll_s)
