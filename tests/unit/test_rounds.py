"""A round of the node's agent that stumbles does not end who serves."""

import errno
import os
from pathlib import Path

import pytest

from edge.node import agent as module
from edge.node.agent import Agent, Settings
from edge.node.serving import Serving
from edge.node.state import State


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
