"""Another image: pods are replaced wave by wave, one at a time; a broken one goes no further than the canary."""

import time
from collections.abc import Callable

import pytest

from tests.cluster.fleet import Fleet
from tests.cluster.load import Load
from tests.cluster.origin import Press, Releases
from tests.cluster.testbed.edge_nodes import socket
from tests.cluster.testbed.network import NODES
from tests.cluster.testbed.processes import run
from tests.cluster.testbed.testbed import Testbed

pytestmark = pytest.mark.cluster
Tell = Callable[[str, str], None]
NAMES = [node.name for node in NODES]
NEXT, BROKEN = "next", "never-pushed"


@pytest.fixture
def next_tag(testbed: Testbed, fleet: Fleet) -> str:
    """The image that the fleet runs under another tag, on every node."""
    image = fleet.values["image"]
    for node in NODES:
        containerd = ["ctr", "-a", str(socket(node, testbed.folder)), "-n", "k8s.io", "image", "tag", "--force"]
        run(*containerd, f"{image['repository']}:{image['tag']}", f"{image['repository']}:{NEXT}")
    return NEXT


def _images(fleet: Fleet) -> dict[str, str]:
    """Node -> tag that its pod runs."""
    return {node: pod["spec"]["containers"][0]["image"].rpartition(":")[2] for node, pod in fleet.pods().items()}


@pytest.mark.case("image change")
def test_pods_are_replaced_one_at_a_time_canary_first(
    fleet: Fleet, press: Press, releases: Releases, next_tag: str, tell: Tell
) -> None:
    settled, before = fleet.settled(), fleet.identity()
    order: list[str] = []  # of the nodes whose pods were replaced
    most_down, begun = 0, time.monotonic()
    with Load(fleet.addresses(), releases.name, press.picture()) as load:
        fleet.upgrade(settled, {"image": {"tag": next_tag}})
        while fleet.rollout().get("state") not in ("done", "stopped"):
            serving = {node for node, version in fleet.active().items() if version == settled}
            most_down = max(most_down, len(NAMES) - len(serving))
            order += [node for node, tag in _images(fleet).items() if tag == next_tag and node not in order]
            assert time.monotonic() - begun < 300, fleet.rollout()
            time.sleep(0.5)
    fleet.ended("done")
    assert _images(fleet) == dict.fromkeys(NAMES, next_tag)
    assert fleet.active() == dict.fromkeys(NAMES, settled)
    assert order[0] == "edge-1", order
    assert most_down == 1
    assert all(fleet.identity()[node][0] != before[node][0] for node in NAMES)
    with pytest.raises(AssertionError, match="failed, the first"):  # the load notices pods that end
        load.check()
    assert len(fleet.events("PodReplaced")) >= len(NAMES)
    took_s = time.monotonic() - begun
    tell("image change", f"3 pods in {took_s:.0f} s, at most {most_down} at a time, in the order {', '.join(order)}")


@pytest.mark.case("broken image")
def test_a_broken_image_stops_at_the_canary_and_helm_rollback_mends_it(fleet: Fleet, tell: Tell) -> None:
    settled, before, image = fleet.settled(), fleet.identity(), _images(fleet)
    fleet.upgrade(settled, {"image": {"tag": BROKEN}, "rollout": {"silenceSeconds": 10, "deadlineSeconds": 20}})
    reason = fleet.ended("stopped")
    assert "edge-1" in reason
    assert "helm rollback" in reason
    assert {node: fleet.identity()[node] for node in NAMES[1:]} == {node: before[node] for node in NAMES[1:]}
    addresses = fleet.addresses()
    assert {fleet.serves_at(addresses[node]) for node in NAMES[1:]} == {settled}
    done = fleet.call("rollback")
    assert done.returncode == 0, done.stderr
    begun = time.monotonic()
    fleet.until(lambda: fleet.active() == dict.fromkeys(NAMES, settled), "every node serves again", 90)
    assert _images(fleet) == image
    tell(
        "broken image",
        f"stopped at the canary: {reason}; helm rollback: serving {time.monotonic() - begun:.0f} s later",
    )
