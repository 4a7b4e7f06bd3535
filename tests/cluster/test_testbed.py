"""The testbed is a real cluster: three ready nodes whose links can be cut."""

import json

import pytest

from tests.cluster.conftest import eventually
from tests.cluster.testbed import network
from tests.cluster.testbed.testbed import Testbed

pytestmark = pytest.mark.cluster


def ready(testbed: Testbed) -> dict[str, str]:
    """Node -> its Ready condition."""
    nodes = json.loads(testbed.kubectl("get", "nodes", "-o", "json"))["items"]
    conditions = {node["metadata"]["name"]: node["status"]["conditions"] for node in nodes}
    return {name: next(c["status"] for c in found if c["type"] == "Ready") for name, found in conditions.items()}


def test_nodes_are_ready_and_of_the_pinned_version(testbed: Testbed) -> None:
    assert ready(testbed) == {node.name: "True" for node in network.NODES}
    version = json.loads(testbed.kubectl("version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"] == "v1.34.4"


def test_a_node_that_is_cut_off_is_away_and_comes_back(testbed: Testbed) -> None:
    node = network.NODES[1]
    network.cut(node)
    try:
        eventually(lambda: ready(testbed)["edge-2"] == "Unknown", "the cut node is not heard", 90)
    finally:
        network.mend(node)
    eventually(lambda: ready(testbed)["edge-2"] == "True", "the node is back", 60)
