"""A node in this process, with its real agent, engine and child's code, and what becomes of it under an attack."""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.node import agent as agent_module
from edge.node.agent import Agent, Settings
from edge.node.candidate import Candidate
from edge.node.child import Child
from edge.node.origin import Origin
from edge.node.serving import Serving
from edge.node.state import State
from edgedistill import signing
from edgedistill.storage import open_store
from tests.edge.attacks import Attack, flip
from tests.edge.conftest import Publisher
from tests.edge.forger import Forger


@dataclass(frozen=True)
class World:
    """Two releases, older states of the repository, and the state folder of a node that serves the first."""

    folder: Path
    root: bytes
    stranger: Path  # another repository with the same releases

    def forger(self, folder: Path) -> Forger:
        """A copy to do harm to."""
        shutil.copytree(self.folder / "store" / "releases", folder / "store" / "releases")
        shutil.copytree(self.folder / "keys", folder / "keys")
        return Forger(folder / "store" / "releases", self.folder / "older", self.stranger, folder / "keys")


def make_world(folder: Path) -> World:
    """Two repositories with two releases each, and the state of a node that serves the first of one."""
    publishers = []
    for name in ("", "stranger"):
        base = folder / name
        store = open_store(base / "store")
        signing.init_repository(store, base / "keys", root_keys=2, root_threshold=2)
        publishers.append(Publisher(base, store, base / "keys"))
        publishers[-1].publish(seed=1)
    own, stranger = publishers
    shutil.copytree(own.releases, folder / "older")
    signing.refresh(own.store, own.keys)
    world = World(folder, signing.root_bytes(own.store), stranger.releases)
    with pytest.MonkeyPatch.context() as patch:
        in_process(patch)
        node = Node(world, folder / "state", own.releases, wanted=1)
        node.look(lambda: node.version == 1)
        node.close()
    for publisher in publishers:
        publisher.publish(seed=2)
    return world


class InProcess(Child):
    """The child's code in this process."""

    def __init__(self, is_wanted: Callable[[], bool] = lambda: True, *, memory_bytes: int = 0) -> None:
        self._candidate, self._is_wanted, self._said = Candidate(), is_wanted, b""
        self._process: Any = SimpleNamespace(stdin=self)

    def write(self, line: bytes) -> None:
        self._said = json.dumps(self._candidate.answer(json.loads(line))).encode()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _line(self, deadline: float) -> bytes:
        return self._said


def in_process(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(agent_module, "Child", InProcess)
    patch.setattr("edge.node.candidate.give_way", lambda: None)


class Node:
    """An agent with its state folder, and every event it told."""

    def __init__(
        self, world: World, state: Path, origin: Path | str, *, wanted: int, root: bytes | None = None
    ) -> None:
        self.wanted = state.parent / "wanted"
        self.wanted.write_text(str(wanted))
        file = self.wanted if wanted else None
        settings = Settings("edge-test", "tiny", str(origin), root or world.root, file, 0, poll_s=0.01)
        self.state = State(state)
        self.agent = Agent(settings, self.state, Serving())
        self.events: list[str] = []
        told = self.agent.status.event

        def event(reason: str, message: str) -> None:
            self.events.append(reason)
            told(reason, message)

        self.agent.status.event = event  # type: ignore[method-assign]
        self.agent.boot()

    @property
    def version(self) -> int:
        engine = self.agent.serving.engine
        return engine.release.version if engine else 0

    def highest(self, role: str) -> int:
        """The version of a role that the node has seen, as its disk says."""
        return int(json.loads((self.state.root / "pointer.json").read_bytes())["highest"][role]["version"])

    def follow(self, origin: str, *, wanted: int) -> None:
        """Ask another address."""
        self.agent.settings = replace(self.agent.settings, releases=origin)
        self.agent.origin = Origin(origin, 0.01)
        self.wanted.write_text(str(wanted))

    def look(self, until: Callable[[], bool], timeout_s: float = 20.0) -> float:
        """Rounds until something is so; the seconds that took."""
        begun = time.monotonic()
        while not until():
            assert time.monotonic() - begun < timeout_s, f"not reached: {self.events} {self.agent.describe()}"
            self.agent.step()
            time.sleep(0.01)
        return time.monotonic() - begun

    def close(self) -> None:
        self.agent.serving.close()
        self.state.close()


@dataclass(frozen=True)
class Outcome:
    version: int  # served
    reasons: tuple[str, ...]  # of the events, each once
    seconds: float  # until the first
    grown_mb: float


def attacked(
    world: World, folder: Path, attack: Attack, patch: pytest.MonkeyPatch, condition: str = "running"
) -> Outcome:
    """A node that serves release 1 is told to take the next one while the origin is in an attacker's hands."""
    spoil = truncate if "power cut" in condition else None
    forger, node = victim(
        world, folder, patch, wanted=attack.wanted, attack=attack, spoil=spoil, is_hidden="offline" in condition
    )
    assert node.version == 1, f"booted: {node.events}"
    hidden = folder / "hidden"
    if hidden.exists():
        node.look(lambda: "unreachable" in node.events)
        hidden.rename(forger.origin)
    node.events.clear()
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    seconds = node.look(lambda: bool(set(node.events) - {"unreachable"}))
    grown = memory_mb("VmHWM") - before
    for _ in range(3):
        node.agent.step()
    outcome = Outcome(node.version, tuple(dict.fromkeys(e for e in node.events if e != "unreachable")), seconds, grown)
    if outcome.reasons == (attack.reason,) and attack.passes and attack.wanted == 2:
        shutil.rmtree(forger.origin)
        shutil.copytree(world.folder / "store" / "releases", forger.origin)
        node.wanted.write_text("2")
        node.look(lambda: node.version == 2)
    node.close()
    return outcome


def victim(
    world: World,
    folder: Path,
    patch: pytest.MonkeyPatch,
    *,
    wanted: int,
    attack: Attack | None = None,
    spoil: Callable[[Path], None] | None = None,
    is_hidden: bool = False,
) -> tuple[Forger, Node]:
    """A forger's origin, attacked or not yet, and a node that booted on release 1 and is told what to take next.

    Args:
        world: both are copies of.
        folder: for them.
        patch: puts the child's code into this process.
        wanted: release; 0: the newest.
        attack: done before the node boots.
        spoil: does something to its state folder before it boots.
        is_hidden: the origin is away, as `hidden`, when it boots.
    """
    in_process(patch)
    forger = world.forger(folder)
    if attack:
        attack.change(forger)
    shutil.copytree(world.folder / "state", folder / "state", symlinks=True)
    if spoil:
        spoil(folder / "state")
    if is_hidden:
        forger.origin.rename(folder / "hidden")
    return forger, Node(world, folder / "state", forger.origin, wanted=wanted)


def spoil_model(state: Path) -> None:
    """One bit of the stored release's weights."""
    path = next((state / "releases").glob("*/model.bin"))
    path.write_bytes(flip(path.read_bytes()))


def truncate(state: Path) -> None:
    """Half of each metadata file that the node goes by, as a disk leaves it that lied about what it had written."""
    number = json.loads((state / "pointer.json").read_bytes())["metadata"]
    for path in (state / "metadata" / number).rglob("*.json"):
        if not path.is_symlink():
            os.truncate(path, path.stat().st_size // 2)


def memory_mb(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024
