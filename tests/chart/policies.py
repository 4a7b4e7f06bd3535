"""May A reach B on a port? The answer that the NetworkPolicies of a cluster give, by the API's own rules.

https://kubernetes.io/docs/concepts/services-networking/network-policies/: a pod that any policy selects for a direction
is isolated in it, and then only what a rule of one of these policies allows may pass; both ends must allow.
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Policy = Mapping[str, Any]


@dataclass(frozen=True)
class End:
    """A pod, or with an address and no labels somebody outside the cluster."""

    labels: Mapping[str, str] = field(default_factory=dict)
    namespace: str = ""
    address: str = "10.42.0.9"

    @property
    def is_pod(self) -> bool:
        return bool(self.namespace)


def allows(policies: Sequence[Policy], source: End, target: End, port: int, protocol: str = "TCP") -> bool:
    """Whether a connection passes both ends."""
    return _passes(policies, "Egress", source, target, port, protocol) and _passes(
        policies, "Ingress", target, source, port, protocol
    )


def _passes(policies: Sequence[Policy], direction: str, own: End, other: End, port: int, protocol: str) -> bool:
    bound = [one for one in policies if own.is_pod and _binds(one, own) and direction in _types(one["spec"])]
    side = "from" if direction == "Ingress" else "to"
    return not bound or any(
        _has_port(rule.get("ports", []), port, protocol) and _has_peer(rule.get(side, []), one, other)
        for one in bound
        for rule in one["spec"].get(direction.lower(), [])
    )


def _binds(policy: Policy, pod: End) -> bool:
    return policy["metadata"]["namespace"] == pod.namespace and _selects(policy["spec"]["podSelector"], pod.labels)


def _types(spec: Mapping[str, Any]) -> Sequence[str]:
    given: Sequence[str] | None = spec.get("policyTypes")
    return given or (["Ingress", "Egress"] if "egress" in spec else ["Ingress"])


def _has_port(ports: Sequence[Mapping[str, Any]], port: int, protocol: str) -> bool:
    return not ports or any(
        one.get("port", port) == port and one.get("protocol", "TCP") == protocol for one in ports
    )  # no list means every port


def _has_peer(peers: Sequence[Mapping[str, Any]], policy: Policy, other: End) -> bool:
    return not peers or any(_is(peer, policy["metadata"]["namespace"], other) for peer in peers)


def _is(peer: Mapping[str, Any], namespace: str, other: End) -> bool:
    if "ipBlock" in peer:
        block, address = peer["ipBlock"], ipaddress.ip_address(other.address)
        return address in ipaddress.ip_network(block["cidr"]) and not any(
            address in ipaddress.ip_network(one) for one in block.get("except", [])
        )
    if not other.is_pod or not _selects(peer.get("podSelector", {}), other.labels):
        return False
    if "namespaceSelector" not in peer:
        return other.namespace == namespace
    return _selects(peer["namespaceSelector"], {"kubernetes.io/metadata.name": other.namespace})


def _selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    for one in selector.get("matchExpressions", []):
        if one["operator"] != "In":
            raise ValueError(f"operator {one['operator']!r}: only In is known here")
        if labels.get(one["key"]) not in one["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())
