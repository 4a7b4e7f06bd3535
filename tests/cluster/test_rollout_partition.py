"""Links that are cut, and a pod that is there and says nothing: the others finish, who is away serves on."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.fleet import ONE_WAVE, Fleet
from tests.cluster.load import Load
from tests.cluster.origin import Press, Releases
from tests.cluster.testbed import network
from tests.cluster.testbed.network import NODES, EdgeNode
from tests.cluster.testbed.testbed import Testbed

pytestmark = pytest.mark.cluster
Tell = Callable[[str, str], None]
NAMES = [node.name for node in NODES]
FIRST, _, THIRD = NODES


@pytest.fixture
def links(testbed: Testbed) -> Iterator[None]:
    """Every link is whole at the end."""
    yield
    for node in NODES:
        network.mend(node)


def _is_away(testbed: Testbed, node: EdgeNode) -> bool:
    conditions = json.loads(testbed.kubectl("get", "node", node.name, "-o", "json"))["status"]["conditions"]
    return next(one["status"] for one in conditions if one["type"] == "Ready") == "Unknown"


def _ask_locally(node: EdgeNode, address: str, name: str, picture: bytes) -> int:
    """The version that answers a program on the node itself."""
    code = "import sys; from tests.cluster.load import ask; print(ask(*sys.argv[1:3], sys.stdin.buffer.read())[0])"
    command = ["nsenter", f"--net=/run/netns/{node.namespace}", sys.executable, "-c", code, address, name]
    done = subprocess.run(command, input=picture, capture_output=True, check=False)
    return int(done.stdout) if done.returncode == 0 else 0


@pytest.mark.case("node away during")
def test_a_node_that_is_cut_off_serves_on_and_catches_up(
    testbed: Testbed, fleet: Fleet, press: Press, releases: Releases, links: None, tell: Tell
) -> None:
    settled, version, picture = fleet.settled(), press.again(), press.picture()
    addresses = fleet.addresses()
    others = {node: address for node, address in addresses.items() if node != THIRD.name}
    pid = fleet.process(fleet.pods()[THIRD.name])
    with Load(others, releases.name, picture) as load:
        fleet.upgrade(version)
        fleet.until(lambda: fleet.said("edge-1").get("desired") == {"version": version}, "the rollout is under way")
        network.cut(THIRD)
        cut = time.monotonic()
        assert _ask_locally(THIRD, addresses[THIRD.name], releases.name, picture) == settled
        fleet.until(lambda: _is_away(testbed, THIRD), "the cut node is not heard", 90)
        os.kill(pid, signal.SIGKILL)
        killed = time.monotonic()
        fleet.until(
            lambda: _ask_locally(THIRD, addresses[THIRD.name], releases.name, picture) == settled,
            "killed while it is cut off, it serves what it served",
        )
        back_s = time.monotonic() - killed
        fleet.ended("done")
        assert {fleet.serves_at(address) for address in others.values()} == {version}
        state = {node["name"]: node["state"] for node in fleet.document()["nodes"]}
        assert state == {"edge-1": "serving", "edge-2": "serving", "edge-3": "away"}
    load.check()
    away_s = time.monotonic() - cut
    network.mend(THIRD)
    mended = time.monotonic()
    fleet.until(lambda: fleet.active() == dict.fromkeys(NAMES, version), "it catches up", 120)
    caught_s = time.monotonic() - mended
    tell(
        "node cut off",
        f"away {away_s:.0f} s, the others finished with {load.answered} answers and 0 failures; killed there, it served"
        f" again after {back_s:.1f} s; it caught up {caught_s:.0f} s after its return",
    )


@pytest.mark.case("ready but silent")
def test_a_ready_node_whose_pod_is_silent_has_failed(fleet: Fleet, press: Press, tell: Tell) -> None:
    settled, version = fleet.settled(), press.again()
    fleet.signal("edge-1", signal.SIGSTOP)
    try:
        fleet.upgrade(version)
        begun = time.monotonic()
        assert "node edge-1 failed: its pod is silent" in fleet.ended("stopped", 60)
        took_s = time.monotonic() - begun
    finally:
        fleet.signal("edge-1", signal.SIGCONT)
    assert set(fleet.assigned().values()) == {settled}
    fleet.until(lambda: fleet.active() == dict.fromkeys(NAMES, settled), "all serve the old release")
    tell("silent pod", f"counted as failed after {took_s:.0f} s (silenceSeconds is 15)")


@pytest.mark.case("all canaries away")
@pytest.mark.case("node away before")
def test_canaries_that_are_away_stop_a_rollout_and_others_that_are_away_do_not(
    testbed: Testbed, fleet: Fleet, press: Press, links: None, tell: Tell
) -> None:
    settled, version = fleet.settled(), press.again()
    network.cut(FIRST)
    fleet.until(lambda: _is_away(testbed, FIRST), "the cut node is not heard", 90)
    fleet.upgrade(version, {"rollout": {"silenceSeconds": 5, "deadlineSeconds": 8}})
    fleet.until(lambda: "every node of wave 1 is away" in fleet.rollout().get("reason", ""), "it waits", 30)
    assert "every node of wave 1 was away for 8 s" in fleet.ended("stopped", 60)
    assert set(fleet.assigned().values()) == {settled}
    # The same release to all at once: edge-1 is one of many.
    fleet.upgrade(version, ONE_WAVE)
    fleet.ended("done")
    assert {node: fleet.serves_at(fleet.addresses()[node]) for node in ("edge-2", "edge-3")} == {
        "edge-2": version,
        "edge-3": version,
    }
    network.mend(FIRST)
    mended = time.monotonic()
    fleet.until(lambda: fleet.active() == dict.fromkeys(NAMES, version), "it catches up", 120)
    tell("canary away", f"waited, then stopped; as one of many it caught up {time.monotonic() - mended:.0f} s later")
