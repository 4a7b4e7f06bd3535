"""The thread that sends: it outlives a disk that fails, and comes later after failures."""

from pathlib import Path

import pytest

from edge.node.sender import Sender, Sending, pause_after
from edge.node.spool import Limits, Spool
from tests.edge.conftest import until
from tests.edge.faulty_disk import LOOKS, unreadable


@pytest.mark.parametrize("call", LOOKS)
def test_sending_survives_a_disk_that_fails(tmp_path: Path, call: str) -> None:
    spool = Spool(tmp_path / "spool", Limits(reserve_bytes=0))
    assert spool.keep(b"picture", "png", {}) == "kept"
    sender = Sender(spool, Sending(str(tmp_path / "target"), "node-1", 0.2, 0.01))
    try:
        with unreadable(spool.folder, call):
            sender.start()
            until(lambda: sender.failures >= 2)
            assert "Input/output error" in sender.problem
            assert (sender.sent, spool.waits) == (0, 1)
        until(lambda: sender.sent == 1)
        until(lambda: not spool.waits and not sender.problem)
    finally:
        sender.stop()


def test_a_problem_of_the_disk_is_over_when_the_disk_is_well(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", Limits(reserve_bytes=0))
    sender = Sender(spool, Sending(str(tmp_path / "target"), "node-1", 0.2, 0.01))
    try:
        with unreadable(spool.folder, "listdir"):
            sender.start()
            until(lambda: sender.problem)
        until(lambda: not sender.problem)
        assert sender.sent == 0
    finally:
        sender.stop()


def test_pauses_grow_with_failures() -> None:
    assert [pause_after(n, 300) for n in (0, 1, 2, 3, 4, 50)] == [300, 600, 1200, 2400, 3600, 3600]
    assert pause_after(9, 7200) == 7200
