"""The way back when the disk or the child fails as well: what is served, what is told, and how often it is loaded."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge.node import active as module
from edge.node.agent import Agent, Settings
from edge.node.child import Interrupted
from edge.node.serving import Serving
from edge.node.state import Pointer, Release, State

ONE, TWO = (Release("tiny", version, f"{version}" * 64) for version in (1, 2))


class NoChild:
    """A child that finds every signature right, or has not the time to look at this release's."""

    busy: set[int] = set()  # noqa: RUF012 - a fixture sets a new one

    def __init__(self, *, memory_bytes: int) -> None:
        """No process."""

    def __enter__(self) -> "NoChild":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing to end."""

    def verify(self, metadata: Path, root: bytes, *, manifest: Path, release: Release) -> None:
        if release.version in self.busy:
            raise Interrupted("the updating child did not answer in time")


class Node:
    """An agent that wants release 2, away from its origin, and the releases that its disk does not give."""

    def __init__(self, folder: Path, pointer: Pointer) -> None:
        self.unreadable: set[int] = set()
        self.loaded: list[int] = []
        self.state, self.serving = State(folder / "state"), Serving()
        self.state.flip(pointer)
        settings = Settings("node", "tiny", str(folder / "absent"), b"", None, 2)
        self.agent = Agent(settings, self.state, self.serving)

    def load(self, folder: Path) -> Any:
        """In the place of Engine.load."""
        release = next(one for one in (ONE, TWO) if folder.name == one.digest)
        if release.version in self.unreadable:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self.loaded.append(release.version)
        return SimpleNamespace(release=release)

    def fail(self) -> None:
        """As if each answer of what is served were none."""
        self.serving._active.failures = module.PROBATION_FAILURES

    def shown(self) -> tuple[str, int]:
        """State and version in /status; 0: nothing is served."""
        told = self.agent.describe()
        return told["state"], told["active"]["version"] if told["active"] else 0


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """Release 2 is active and on probation, release 1 is the one before."""
    one = Node(tmp_path, Pointer(active=TWO, previous=ONE, metadata="1", probation=True))
    monkeypatch.setattr(module, "Child", NoChild)
    monkeypatch.setattr(NoChild, "busy", set())
    monkeypatch.setattr(module.Engine, "load", one.load)
    yield one
    one.serving.close()
    one.state.close()


def test_a_failing_release_goes_even_when_the_one_before_cannot_be_had_yet(node: Node) -> None:
    """Else it would be told as serving, no longer on probation, and a rollout would take that for a success."""
    for what in (node.unreadable, NoChild.busy):
        what.add(1)
    node.agent.boot()
    assert node.shown() == ("probation", 2)
    node.fail()
    for _ in range(3):
        node.agent.step()
        assert node.shown() == ("waiting", 0)
        assert node.serving.engine is None
    node.unreadable.clear()
    node.agent.step()
    assert node.shown() == ("waiting", 0), "read, but nobody has vouched for it yet"
    NoChild.busy.clear()
    node.agent.step()
    assert node.shown() == ("serving", 1)
    assert [refusal.reason for refusal in node.state.refusals()] == ["failing"]


def test_a_failing_release_gives_way_to_the_one_before(node: Node) -> None:
    node.agent.boot()
    node.fail()
    node.agent.step()
    assert node.shown() == ("serving", 1)


@pytest.mark.parametrize("is_read", [False, True])
def test_a_release_that_cannot_be_had_is_tried_each_round_but_the_one_before_is_loaded_once(
    node: Node, is_read: bool
) -> None:
    (NoChild.busy if is_read else node.unreadable).add(2)
    node.agent.boot()
    for _ in range(4):
        node.agent.step()
    assert node.shown() == ("serving", 1)
    assert node.loaded.count(1) == 1
    assert node.serving.swaps == 1
    NoChild.busy.clear()
    node.unreadable.clear()
    node.agent.step()
    assert node.shown() == ("probation", 2)


def test_a_release_is_not_held_to_what_the_one_before_it_answers(node: Node) -> None:
    node.unreadable.add(2)
    node.agent.boot()
    node.fail()
    node.agent.step()
    assert node.state.refusals() == (), "release 1 failed"
    node.agent.active.probation_s = -1.0
    node.agent.step()
    assert node.agent.active.pointer.probation, "release 2 has not answered yet"
    node.unreadable.clear()
    node.agent.step()
    node.agent.step()
    assert node.shown() == ("serving", 2)
    assert not node.agent.active.pointer.probation
