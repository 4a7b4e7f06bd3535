"""A start that did not serve is held against the release on probation only where it may be the release's fault."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.edge.conftest import Publisher, StartNode, node_arguments

STARTS = 3  # as many as a release on probation may die of


def _unfinished(state: Path) -> int:
    return int(json.loads((state / "pointer.json").read_bytes())["unfinished_starts"])


def _on_probation(publisher: Publisher, start_node: StartNode, state: Path) -> None:
    """A node that activated a release, and was told to end before it had proven itself."""
    publisher.publish(seed=1)
    node = start_node()
    node.wait_version(1)
    node.kill(signal.SIGTERM)
    assert _unfinished(state) == 0


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port"])
def test_a_port_that_is_taken_is_not_held_against_the_release(
    option: str, publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    _on_probation(publisher, start_node, state)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "edge.node", *node_arguments(publisher, state), option, port]
        for _ in range(STARTS):
            ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            assert ended.returncode == 1
            assert "choose other ports" in ended.stderr
            assert "Traceback" not in ended.stderr
            assert _unfinished(state) == 0
    status = start_node().wait_version(1)
    assert (status["state"], status["quarantined"]) == ("probation", [])


def test_a_node_that_is_told_to_end_while_it_boots_has_not_died(
    publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    _on_probation(publisher, start_node, state)
    command = [sys.executable, "-m", "tests.edge.drivers.boots_slowly", *node_arguments(publisher, state)]
    node = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 30
    while _unfinished(state) == 0:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    node.send_signal(signal.SIGTERM)
    said = node.communicate(timeout=30)
    assert node.returncode == 0, said
    assert said[0] == "", "it was told to end before it served"
    assert _unfinished(state) == 0
    status = start_node().wait_version(1)
    assert (status["state"], status["quarantined"]) == ("probation", [])


def test_a_release_that_fails_every_boot_is_left(publisher: Publisher, start_node: StartNode, tmp_path: Path) -> None:
    publisher.publish(seed=1)
    node = start_node()
    node.wait_version(1)
    publisher.publish(seed=2)
    node.wait_version(2)
    node.kill(signal.SIGTERM)
    driver = "tests.edge.drivers.dies_at_boot"
    command = [sys.executable, "-m", driver, *node_arguments(publisher, tmp_path / "state")]
    for count in (1, 2):
        assert subprocess.run(command, capture_output=True, timeout=60, check=False).returncode == 1
        assert _unfinished(tmp_path / "state") == count
    status = start_node(module=driver).wait_version(1)
    assert [refusal["reason"] for refusal in status["quarantined"]] == ["died"]
