"""The testbed ends what it started and nothing else, whatever became of who started it. Needs no cluster."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.testbed.processes import GATE, end_process, started

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the testbed is Linux's")


@pytest.fixture
def sleeper() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that does nothing."""
    process = subprocess.Popen(["sleep", "100"])
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(("word", "ran"), [(b"go\n", True), (b"", False)])
def test_a_process_runs_only_when_it_is_remembered(tmp_path: Path, word: bytes, ran: bool) -> None:
    """Without the word its parent has died before the pid was on disk."""
    mark = tmp_path / "mark"
    child = subprocess.Popen([*GATE, "touch", str(mark)], stdin=subprocess.PIPE)
    child.communicate(word)
    assert (mark.exists(), child.returncode == 0) == (ran, ran)


def test_a_pid_that_is_anothers_by_now_is_left_alone(sleeper: "subprocess.Popen[bytes]") -> None:
    mine = started(sleeper.pid)
    end_process(sleeper.pid, str(int(mine) + 1), timeout_s=5)
    end_process(sleeper.pid, "", timeout_s=5)
    time.sleep(0.1)
    assert started(sleeper.pid) == mine
    end_process(sleeper.pid, mine, timeout_s=5)
    assert started(sleeper.pid) == ""
