"""P1: at every instant a node serves exactly one complete signed release."""

import shutil
import signal

import pytest

from tests.edge.conftest import Publisher, StartNode


def test_serves_again_with_no_origin(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    node = start_node()
    digest = node.wait_version(1)["active"]["digest"]
    root = publisher.folder / "root.json"
    shutil.copy(publisher.root, root)
    node.kill()
    shutil.rmtree(publisher.releases)
    offline = start_node("--root", str(root))
    assert offline.wait_version(1)["active"]["digest"] == digest


@pytest.mark.parametrize("point", ["before_fetch", "fetched", "tried", "kept", "before_flip", "flipped"])
def test_killed_at_each_step_of_an_update_it_serves_old_or_new(
    point: str, publisher: Publisher, start_node: StartNode
) -> None:
    publisher.publish(seed=1)
    first = start_node()
    first.wait_version(1)
    first.kill()
    publisher.publish(seed=2)
    dying = start_node(environment={"EDGEDISTILL_FAILPOINT": point})
    assert dying.process is not None
    assert dying.process.wait(60) == -signal.SIGKILL
    node = start_node("--version", "1" if point != "flipped" else "2")
    served = node.wait(lambda s: s["active"] is not None)["active"]["version"]
    assert served == (2 if point == "flipped" else 1)
    node.kill()
    assert start_node().wait_version(2)["active"]["version"] == 2


def test_three_starts_that_die_return_to_the_previous_release(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    start = start_node()
    start.wait_version(1)
    publisher.publish(seed=2)
    start.wait_version(2)
    start.kill()
    for _ in range(2):
        again = start_node("--version", "2")
        again.wait_version(2)
        again.kill()
    status = start_node("--version", "2").wait_version(1)
    assert status["quarantined"][-1]["reason"] == "died"
