"""The child that updates: the serving process loads none of what it needs, and its end harms nobody."""

import os
import signal
import time
from pathlib import Path

import pytest

from tests.edge.conftest import NodeProcess, Publisher, StartNode

pytestmark = pytest.mark.proof

CHILDS = {"tuf", "urllib3", "cryptography", "securesystemslib"}


def _loaded(start_node: StartNode, publisher: Publisher, tmp_path: Path, module: str) -> set[str]:
    """Top-level modules of a node that booted a release from disk and activated another."""
    file = tmp_path / "modules"
    node = start_node(module=module, environment={"MODULES": str(file)})
    node.wait_version(1)
    publisher.publish(seed=2)
    node.wait_version(2)
    node.kill(signal.SIGTERM)
    assert node.process is not None
    assert node.process.returncode == 0, "OpenVINO's signal stack: not in the thread that handles signals"
    return {name.partition(".")[0] for name in file.read_text().split()}


def test_the_serving_process_never_loads_what_verifies(
    publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    publisher.publish(seed=1)
    node = start_node()
    node.wait_version(1)
    node.kill()
    loaded = _loaded(start_node, publisher, tmp_path, "tests.edge.drivers.dumps_modules")
    assert "openvino" in loaded
    assert not CHILDS & loaded


def test_a_node_that_verified_itself_would_load_it(publisher: Publisher, start_node: StartNode, tmp_path: Path) -> None:
    """Negative control."""
    publisher.publish(seed=1)
    node = start_node()
    node.wait_version(1)
    node.kill()
    assert _loaded(start_node, publisher, tmp_path, "tests.edge.drivers.verifies_itself") >= CHILDS


def test_who_is_told_to_end_has_not_died(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    for _ in range(4):
        node = start_node()
        node.wait_version(1)
        node.kill(signal.SIGTERM)
    status = start_node().wait_version(1)
    assert status["quarantined"] == []
    assert status["state"] == "probation"


def _children(file: Path, count: int) -> list[int]:
    """The pids of the node's children so far; waits until there are `count`."""
    for _ in range(600):
        pids = [int(line) for line in file.read_text().split()] if file.exists() else []
        if len(pids) >= count:
            return pids
        time.sleep(0.05)
    raise AssertionError(f"{len(pids)} children, expected {count}")


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _wait_updating(node: NodeProcess) -> None:
    node.wait(lambda s: s["state"] == "updating")
    time.sleep(1.5)  # the child, too, is where it stands still


@pytest.mark.parametrize("stands", ["fetch", "try_release"])
def test_a_child_that_is_killed_is_the_releases_fault_only_in_its_trial(
    stands: str, publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    publisher.publish(seed=1)
    children = tmp_path / "children"
    node = start_node(
        module="tests.edge.drivers.waits_in_child", environment={"STANDS": stands, "CHILDREN": str(children)}
    )
    _wait_updating(node)
    os.kill(_children(children, 1)[-1], signal.SIGKILL)
    if stands == "fetch":
        status = node.wait(lambda s: s["last_event"].get("reason") == "interrupted")
        assert status["quarantined"] == []
        again = _children(children, 2)[-1]
        node.kill()
        for _ in range(100):
            if not _alive(again):
                break
            time.sleep(0.05)
        assert not _alive(again), "a child does not outlive its node"
        assert start_node().wait_version(1)["quarantined"] == []
    else:
        status = node.wait(lambda s: s["refused"] == "crashed")
        assert [q["reason"] for q in status["quarantined"]] == ["crashed"]
        node.kill()
        stubborn = start_node()
        assert stubborn.wait(lambda s: s["refused"] == "crashed")["active"] is None
        stubborn.kill()
        assert start_node("--forget", "1").wait_version(1)["quarantined"] == [], "an operator's word"
