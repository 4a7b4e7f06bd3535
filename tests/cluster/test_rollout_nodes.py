"""Nodes come and go; a release is withdrawn while it is served."""

from collections.abc import Callable

import pytest

from edgedistill import signing
from tests.cluster.clusters import Cluster
from tests.cluster.fleet import FLEET_LABEL, ONE_WAVE, Fleet
from tests.cluster.load import Load
from tests.cluster.origin import Press, Releases
from tests.cluster.testbed.network import NODES

pytestmark = pytest.mark.cluster
Tell = Callable[[str, str], None]
NAMES = [node.name for node in NODES]


def _leave(cluster: Cluster, fleet: Fleet, node: str) -> None:
    cluster.kubectl("label", "node", node, f"{FLEET_LABEL}-")
    fleet.until(lambda: node not in fleet.pods(), "the node's pod is gone")


def _join(cluster: Cluster, fleet: Fleet, node: str) -> None:
    cluster.kubectl("label", "node", node, f"{FLEET_LABEL}=yes")
    fleet.until(lambda: bool(fleet.said(node)), "the node's pod answers", 90)


@pytest.mark.case("node added")
def test_a_node_that_joins_gets_what_the_fleet_has(
    cluster: Cluster, fleet: Fleet, press: Press, releases: Releases, tell: Tell
) -> None:
    settled = fleet.settled()
    with Load(fleet.addresses(), releases.name, press.picture()) as load:
        _leave(cluster, fleet, "edge-3")
        fleet.until(lambda: set(fleet.assigned()) == {"edge-1", "edge-2"}, "the controller forgets it")
        assert {node["name"] for node in fleet.document()["nodes"]} == {"edge-1", "edge-2"}
    with pytest.raises(AssertionError, match="edge-3"):  # the load notices a pod that ends
        load.check()
    assert not load.seen["edge-1"].failures
    assert not load.seen["edge-2"].failures
    _join(cluster, fleet, "edge-3")
    fleet.until(lambda: fleet.active() == dict.fromkeys(NAMES, settled), "it serves the fleet's release")
    tell(
        "node gone and added", f"{load.answered} answers of the others; the load saw {load.seen['edge-3'].failures[0]}"
    )


@pytest.mark.case("withdrawn release")
def test_a_withdrawn_release_is_served_on_but_not_fetched_anew(
    cluster: Cluster, fleet: Fleet, press: Press, releases: Releases
) -> None:
    settled = fleet.settled()
    signing.withdraw(releases.store, releases.keys, name=releases.name, version=settled)
    _leave(cluster, fleet, "edge-3")
    _join(cluster, fleet, "edge-3")
    fleet.until(lambda: fleet.said("edge-3").get("refused") == "not_listed", "the new node refuses it")
    assert fleet.active() == {"edge-1": settled, "edge-2": settled, "edge-3": None}
    version = press.again()
    fleet.upgrade(version, ONE_WAVE)
    fleet.ended("done")
    assert fleet.active() == dict.fromkeys(NAMES, version)
