"""What a person asks of a rollout: where it stands, wait for it, stop it."""

import time
from dataclasses import asdict, dataclass
from typing import Any

from edge.rollout.decide import NodeView, Progress, Target, wave_numbers
from edge.rollout.fleet import Fleet
from edgedistill.errors import RolloutError


@dataclass(frozen=True)
class FleetStatus:
    """The whole fleet at one moment."""

    target: Target
    progress: Progress | None
    versions: dict[str, int]  # node -> assigned version
    nodes: list[NodeView]

    @property
    def current(self) -> Progress | None:
        """The progress of the newest target; None: the controller has not seen it yet."""
        return self.progress if self.progress and self.progress.is_of(self.target) else None

    def document(self) -> dict[str, Any]:
        """As JSON, for programs."""
        waves = wave_numbers(self.target.waves, self.nodes)
        return {
            "target": {"name": self.target.name, "version": self.target.version},
            "rollout": asdict(self.progress) if self.progress else None,
            "nodes": [
                {
                    "name": node.name,
                    "wave": waves[node.name] + 1,
                    "assigned": self.versions.get(node.name),
                    "active": node.active,
                    "state": node.state if node.is_heard else "away",
                    "refused": node.refused,
                }
                for node in self.nodes
            ],
        }


def look(fleet: Fleet, *, ask_nodes: bool = True) -> FleetStatus:
    """Where the rollout stands; `ask_nodes` needs a way to the pods."""
    target, selector = fleet.target()
    seen = fleet.assignment()
    nodes = fleet.nodes(selector, is_tls=target.is_tls) if ask_nodes else []
    return FleetStatus(target, seen.progress, dict(seen.versions), nodes)


def wait(fleet: Fleet, *, timeout_s: float, poll_s: float = 2.0) -> str:
    """Wait until the newest target is where it was sent; gives the controller's sentence.

    Raises:
        RolloutError: the rollout was stopped, or did not end in time.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        status = look(fleet, ask_nodes=False)
        progress = status.current
        if progress and progress.state == "done":
            return progress.reason
        if progress and progress.state == "stopped":
            raise RolloutError(
                f"release {progress.version} was stopped: {progress.reason}; see: edgedistill fleet status"
            )
        if time.monotonic() > deadline:
            why = progress.reason if progress else "the controller has not seen the target"
            raise RolloutError(f"release {status.target.version} is not out after {timeout_s:g} s: {why}")
        time.sleep(poll_s)


def stop(fleet: Fleet) -> str:
    """Stop the newest target and send every node back to the release that the fleet last finished."""
    status = look(fleet, ask_nodes=False)
    if status.current and status.current.state in ("done", "stopped"):
        raise RolloutError(
            f"release {status.target.version} is {status.current.state}; to leave it, upgrade the chart to another"
        )
    fleet.request_stop(status.target.revision)
    return f"release {status.target.version} is being stopped"
