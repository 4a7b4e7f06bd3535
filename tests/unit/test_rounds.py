"""A round of the node's agent that stumbles does not end who serves."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.node import agent as module
from edge.node.agent import Agent, Settings
from edge.node.catalog import Catalog, Unreachable
from edge.node.child import Interrupted
from edge.node.disk import DiskTrouble
from edge.node.origin import Origin
from edge.node.serving import Serving
from edge.node.state import Refusal, Release, State

DIGEST = "1" * 64
FULL = DiskTrouble.of(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "nothing can be fetched")


class FailingChild:
    """A child whose origin lists release 1, and whose download (or, if told so, whose look) fails."""

    looks = fetches = 0
    error: Exception = FULL
    fails_at = "fetch"

    def __init__(self, *arguments: object, **options: object) -> None:
        """No process."""

    def close(self) -> None:
        """Nothing to end."""

    def refresh(self, *arguments: object, **options: object) -> Catalog:
        FailingChild.looks += 1
        if self.fails_at == "refresh":
            raise self.error
        return Catalog(1, 0, {1: DIGEST}, {})

    def fetch(self, release: Release, folder: Path) -> None:
        FailingChild.fetches += 1
        raise self.error


class Rounds:
    """An agent that wants release 1, on a clock that the test turns; a look is due every second."""

    def __init__(self, folder: Path) -> None:
        self.hint, self.wanted = folder / "releases" / "metadata" / "timestamp.json", folder / "wanted"
        self.hint.parent.mkdir(parents=True)
        self.hint.write_text("{}")
        self.wanted.write_text("1")
        self.now = 0.0
        self.state, self.serving = State(folder / "state"), Serving()
        settings = Settings("node", "tiny", str(folder / "releases"), b"", self.wanted, 0, poll_s=1.0)
        self.agent = Agent(settings, self.state, self.serving)
        self.agent.origin = Origin(settings.releases, 1.0, clock=lambda: self.now, uniform=lambda low, high: 1.0)

    def tries(self, seconds: int) -> list[int]:
        """The seconds, counted from now, in which something was tried; ten rounds in each."""
        found = []
        for second in range(seconds):
            before = FailingChild.looks
            for _ in range(10):
                self.agent.step()
            if FailingChild.looks > before:
                assert FailingChild.looks == before + 1, "in one second"
                found.append(second)
            self.now += 1.0
        return found


@pytest.fixture
def rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Rounds]:
    monkeypatch.setattr(module, "Child", FailingChild)
    for name, value in (("looks", 0), ("fetches", 0), ("error", FULL), ("fails_at", "fetch")):
        monkeypatch.setattr(FailingChild, name, value)
    one = Rounds(tmp_path)
    yield one
    one.serving.close()
    one.state.close()


@pytest.mark.parametrize("fails_at", ["fetch", "refresh"])
def test_a_full_disk_is_tried_again_after_a_pause_and_later_each_time(
    rounds: Rounds, fails_at: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What arrived is gone each time: a node that tried with every look would download for ever."""
    monkeypatch.setattr(FailingChild, "fails_at", fails_at)
    assert rounds.tries(24) == [0, 1, 3, 7, 15, 23], "at most eight looks apart: space comes back unannounced"
    assert FailingChild.fetches == (6 if fails_at == "fetch" else 0)
    assert rounds.agent.status.last_event["reason"] == "disk_full"


@pytest.mark.parametrize("error", [Unreachable("no file"), Interrupted("the child ended"), ValueError("a fault")])
def test_a_download_that_fails_is_tried_later_each_time(
    rounds: Rounds, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FailingChild, "error", error)
    assert rounds.tries(8) == [0, 1, 3, 7]


def test_another_wish_does_not_wait_for_the_pause_after_a_failure(rounds: Rounds) -> None:
    assert rounds.tries(4) == [0, 1, 3]
    rounds.wanted.write_text("2")
    assert rounds.tries(2) == [0]
    assert rounds.agent.status.refused == "not_listed"


@pytest.mark.parametrize("is_away", [False, True])
def test_a_refused_release_that_is_wanted_again_is_told_as_refused_again(rounds: Rounds, is_away: bool) -> None:
    """Nothing is new at the origin, but /status has lost the word since."""
    rounds.state.quarantine(Refusal(1, DIGEST, "crashed", "the release ended its trial"))
    if is_away:
        rounds.hint.unlink()
    rounds.agent.step()
    assert rounds.agent.status.refused == "crashed"
    rounds.wanted.unlink()
    rounds.agent.step()
    assert rounds.agent.status.refused == ""
    rounds.wanted.write_text("1")
    for _ in range(3):
        rounds.agent.step()
        assert rounds.agent.status.refused == "crashed"
    assert FailingChild.fetches == 0


def test_a_machine_that_starts_no_process_is_an_event(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "releases" / "metadata").mkdir(parents=True)
    (tmp_path / "releases" / "metadata" / "timestamp.json").write_text("{}")
    state, serving = State(tmp_path / "state"), Serving()
    agent = Agent(Settings("node", "tiny", str(tmp_path / "releases"), b"", None, 1), state, serving)

    def no_process(*arguments: object, **options: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(module, "Child", no_process)
    for _ in range(2):
        agent.step()
        assert agent.status.state == "waiting"
        assert agent.status.last_event["reason"] == "internal_error"
        assert "\n" not in agent.status.last_event["message"]
    serving.close()
    state.close()
