"""Who may talk with whom, by the rendered NetworkPolicies. Each policy is taken away once: somebody must miss it."""

import json
from typing import Any

import pytest

from tests.chart.policies import End, allows
from tests.chart.rendering import NAMESPACE, case, rendered


def ours(component: str) -> End:
    """A pod of the chart."""
    name = "app.kubernetes.io"
    labels = {f"{name}/name": "student-edge", f"{name}/instance": "student-edge", f"{name}/component": component}
    return End(labels, NAMESPACE)


NODE, CONTROLLER, WAIT, TEST = (ours(one) for one in ("node", "controller", "wait", "test"))
NEIGHBOUR = End({"app": "shop"}, NAMESPACE)
STRANGER = End({"app": "shop"}, "shop")
MONITOR = End({"app": "prometheus"}, "monitoring")
DNS = End({"k8s-app": "kube-dns"}, "kube-system")
IN_SYSTEM = End({"k8s-app": "metrics"}, "kube-system")
OUTSIDE = End(address="203.0.113.5")
CLIENT = End(address="192.0.2.7")
ORIGIN = End({"app": "minio"}, "store")
MIRROR = End(address="198.51.100.7")

# By default: releases.url is http://releases.example/releases.
DEFAULT = "two-nodes"
ALLOWED = [
    (NODE, DNS, 53),
    (NODE, OUTSIDE, 80),
    (CONTROLLER, OUTSIDE, 443),
    (CONTROLLER, OUTSIDE, 6443),
    (WAIT, OUTSIDE, 6443),
    (CONTROLLER, NODE, 8080),
    (TEST, NODE, 8080),
    (NEIGHBOUR, NODE, 8080),
    (NEIGHBOUR, NODE, 8081),
]
DENIED = [
    (STRANGER, NODE, 8080),
    (OUTSIDE, NODE, 8080),
    (NEIGHBOUR, NODE, 8082),
    (NEIGHBOUR, NODE, 22),
    (NODE, OUTSIDE, 443),
    (NODE, OUTSIDE, 6443),
    (NODE, NEIGHBOUR, 8080),
    (NODE, CONTROLLER, 8082),
    (NODE, IN_SYSTEM, 53),
    (NODE, OUTSIDE, 53),
    (CONTROLLER, OUTSIDE, 80),
    (CONTROLLER, DNS, 53),
    (CONTROLLER, NEIGHBOUR, 8080),
    (NEIGHBOUR, CONTROLLER, 8082),
    (MONITOR, CONTROLLER, 8082),
    (NEIGHBOUR, WAIT, 8080),
    (NEIGHBOUR, TEST, 8080),
    (WAIT, NODE, 8080),
    (TEST, OUTSIDE, 443),
    (TEST, DNS, 53),
]
NAMED = {
    "network-policy": (
        [
            (STRANGER, NODE, 8080),
            (MONITOR, NODE, 8080),
            (MONITOR, CONTROLLER, 8082),
            (NODE, ORIGIN, 9000),
            (NODE, MIRROR, 9000),
        ],
        [
            (NEIGHBOUR, NODE, 8080),
            (MONITOR, NODE, 8081),
            (STRANGER, CONTROLLER, 8082),
            (NODE, OUTSIDE, 9000),
            (NODE, ORIGIN, 80),
            (CONTROLLER, OUTSIDE, 443),
        ],
    ),
    "feedback": (
        [(NODE, OUTSIDE, 9000), (NODE, OUTSIDE, 9443)],
        [(NODE, OUTSIDE, 443), (CONTROLLER, OUTSIDE, 9443), (TEST, OUTSIDE, 9443)],
    ),
    "nodeport": ([(CLIENT, NODE, 8080), (CLIENT, NODE, 8081)], [(OUTSIDE, NODE, 8080), (NEIGHBOUR, NODE, 8080)]),
}


def policies(helm: str, name: str, *options: str) -> list[dict[str, Any]]:
    """The rendered ones, in the namespace that they are applied to."""
    found = [one for one in rendered(helm, case(name), *options) if one["kind"] == "NetworkPolicy"]
    for one in found:
        one["metadata"]["namespace"] = NAMESPACE
    return found


def test_the_table(helm: str) -> None:
    found = policies(helm, DEFAULT)
    assert [row for row in ALLOWED if not allows(found, *row)] == []
    assert [row for row in DENIED if allows(found, *row)] == []
    assert allows(found, NODE, DNS, 53, "UDP")
    assert not allows(found, NODE, OUTSIDE, 80, "UDP")


@pytest.mark.parametrize("name", NAMED)
def test_who_is_named_may_and_nobody_else(helm: str, name: str) -> None:
    allowed, denied = NAMED[name]
    found = policies(helm, name)
    assert [row for row in allowed if not allows(found, *row)] == []
    assert [row for row in denied if allows(found, *row)] == []


def test_a_list_without_names_lets_nobody_in(helm: str) -> None:
    found = policies(helm, DEFAULT, "--set-json", "networkPolicy.clients=[]")
    assert not allows(found, NEIGHBOUR, NODE, 8080)
    assert allows(found, CONTROLLER, NODE, 8080)


def test_the_feedbacks_store_and_the_dns_can_be_named(helm: str) -> None:
    mine = [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "store"}}}]
    options = ("--set-json", f"networkPolicy.feedback={json.dumps(mine)}", "--set", "networkPolicy.feedbackPort=9001")
    found = policies(helm, "feedback", *options)
    assert allows(found, NODE, ORIGIN, 9001)
    assert not allows(found, NODE, OUTSIDE, 9001)
    assert not allows(found, NODE, OUTSIDE, 9443)
    cache = [{"ipBlock": {"cidr": "169.254.20.10/32"}}]
    found = policies(helm, DEFAULT, "--set-json", f"networkPolicy.dns={json.dumps(cache)}")
    assert allows(found, NODE, End(address="169.254.20.10"), 53, "UDP")
    assert not allows(found, NODE, DNS, 53)


def test_without_policies_everybody_may(helm: str) -> None:
    found = policies(helm, "no-network-policy")
    assert found == []
    assert all(allows(found, *row) for row in ALLOWED + DENIED)


def test_each_policy_is_needed(helm: str) -> None:
    found = policies(helm, DEFAULT)
    deny = [one for one in found if one["metadata"]["name"].endswith("-deny")]
    assert len(deny) == 1
    assert not any(allows(deny, *row) for row in ALLOWED if row[0] != NEIGHBOUR or row[1] != NEIGHBOUR)
    for one in found:
        others = [other for other in found if other is not one]
        changed = [row for row in ALLOWED + DENIED if allows(found, *row) != allows(others, *row)]
        assert changed, f"nobody would miss {one['metadata']['name']}"
    others = [one for one in found if one not in deny]
    assert all(allows(others, *row) for row in DENIED if row[1] in (WAIT, TEST)), "only the deny policy holds these"


@pytest.mark.parametrize(
    ("url", "port"),
    [
        ("http://h/x", 80),
        ("https://h/x", 443),
        ("https://h:8443/x", 8443),
        ("http://[2001:db8::1]/x", 80),
        ("http://[2001:db8::1]:9000", 9000),
    ],
)
def test_the_origins_port_comes_from_its_address(helm: str, url: str, port: int) -> None:
    found = policies(helm, DEFAULT, "--set", f"releases.url={url}")
    assert [one for one in (80, 443, 8443, 9000) if allows(found, NODE, OUTSIDE, one)] == [port]
