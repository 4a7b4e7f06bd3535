"""Namespaces without an uplink: `cloud` owns a bridge, each node is joined to it by a veth pair."""

import contextlib
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.testbed.processes import run

CLOUD = "edt-cloud"
CLOUD_ADDRESS = "10.77.0.1"
BRIDGE = "edt-br0"
SERVICES = "10.96.0.0/16"
API_SERVICE = "10.96.0.1"
POD_RANGE = "10.244.0.0/16"


@dataclass(frozen=True)
class EdgeNode:
    """Where a node lives."""

    name: str
    number: int  # from 1

    @property
    def namespace(self) -> str:
        return f"edt-{self.name}"

    @property
    def address(self) -> str:
        return f"10.77.0.{10 + self.number}"

    @property
    def pods(self) -> str:
        return f"10.244.{self.number}.0/24"

    @property
    def link(self) -> str:
        """The cloud's end of the veth pair."""
        return f"edt-veth{self.number}"


NODES = (EdgeNode("edge-1", 1), EdgeNode("edge-2", 2), EdgeNode("edge-3", 3))


def make_network() -> None:
    """Make the namespaces, the bridge and the routes."""
    _namespace(CLOUD)
    run("ip", "-n", CLOUD, "link", "add", BRIDGE, "type", "bridge")
    run("ip", "-n", CLOUD, "address", "add", f"{CLOUD_ADDRESS}/24", "dev", BRIDGE)
    run("ip", "-n", CLOUD, "link", "set", BRIDGE, "up")
    for node in NODES:
        _namespace(node.namespace)
        run(
            "ip", "-n", CLOUD, "link", "add", node.link, "type", "veth", "peer", "name", "eth0", "netns", node.namespace
        )
        run("ip", "-n", CLOUD, "link", "set", node.link, "master", BRIDGE, "up")
        run("ip", "-n", node.namespace, "address", "add", f"{node.address}/24", "dev", "eth0")
        run("ip", "-n", node.namespace, "link", "set", "eth0", "up")
        run("ip", "-n", node.namespace, "route", "add", "default", "via", CLOUD_ADDRESS)
        run("ip", "-n", CLOUD, "route", "add", node.pods, "via", node.address)


def cut(node: EdgeNode) -> None:
    """Take a node's link away."""
    run("ip", "-n", CLOUD, "link", "set", node.link, "down")


def mend(node: EdgeNode) -> None:
    """Give it back."""
    run("ip", "-n", CLOUD, "link", "set", node.link, "up")


def remove_network() -> None:
    """Remove the namespaces; what is in them goes with them."""
    for namespace in (*(node.namespace for node in NODES), CLOUD):
        if Path(f"/run/netns/{namespace}").exists():
            with contextlib.suppress(RuntimeError):
                run("ip", "netns", "delete", namespace)


def _namespace(name: str) -> None:
    run("ip", "netns", "add", name)
    run("ip", "-n", name, "link", "set", "lo", "up")
    run("sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward", namespace=name)
