"""Facts about nodes and pods, read from the cluster's objects."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

_STARTING = ("ContainerCreating", "PodInitializing")


class Toleration(NamedTuple):
    """A taint that a pod may live with; what is empty matches everything."""

    key: str
    operator: str = "Exists"
    value: str = ""
    effect: str = ""

    def admits(self, taint: Any) -> bool:
        """Whether it is about this taint."""
        is_about = self.key in ("", taint.key) and self.effect in ("", taint.effect)
        return is_about and (self.operator == "Exists" or self.value == (taint.value or ""))


# What every DaemonSet's pods tolerate, for a fleet that has no pod yet.
TOLERATED = frozenset(
    Toleration(f"node.kubernetes.io/{name}")
    for name in (
        *("not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure"),
        *("unschedulable", "network-unavailable"),
    )
)


def printable(value: Any) -> str:
    """A word of a node's, fit for a terminal and an Event."""
    return "".join(one for one in value[:100] if one.isprintable()) if isinstance(value, str) else ""


def is_heard(node: Any) -> bool:
    """Whether its kubelet reports."""
    # The node controller says Unknown when the kubelet's lease is stale, by one clock: its own.
    conditions = {one.type: one.status for one in node.status.conditions or []}
    return bool(conditions.get("Ready", "Unknown") != "Unknown")


def is_running(pod: Any) -> bool:
    """Whether it can be asked."""
    return bool(pod is not None and pod.status.phase == "Running" and pod.status.pod_ip and not trouble(pod))


def is_ready(pod: Any) -> bool:
    """Whether the pod is ready, and stays."""
    if pod is None or pod.metadata.deletion_timestamp is not None:
        return False
    return any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or [])


def trouble(pod: Any) -> str:
    """Why a pod does not run, when that is not just its start or its end; empty: it runs, or is on its way."""
    if pod is None:
        return "no pod"
    if pod.metadata.deletion_timestamp is not None:
        return ""
    for one in [*(pod.status.init_container_statuses or []), *(pod.status.container_statuses or [])]:
        waiting = one.state.waiting if one.state else None
        if waiting and waiting.reason and waiting.reason not in _STARTING:
            ended = one.last_state.terminated if one.last_state else None
            return f"{waiting.reason} (it ended with code {ended.exit_code})" if ended else str(waiting.reason)
    for one in pod.status.conditions or []:
        if one.type == "PodScheduled" and one.status == "False":
            return f"{one.reason}: {printable(one.message)}"
    return str(pod.status.reason or "Failed") if pod.status.phase == "Failed" else ""


def pods_by_node(pods: Sequence[Any]) -> dict[str, Any]:
    """The pod of each node; of several the one that stays, and of those the newest."""

    def rank(pod: Any) -> tuple[bool, bool, str]:
        is_going = pod.metadata.deletion_timestamp is not None
        return not is_going, pod.status.phase != "Failed", str(pod.metadata.creation_timestamp)

    return {name: pod for pod in sorted(pods, key=rank) if (name := _node_of(pod))}


def _node_of(pod: Any) -> str:
    """The node that a DaemonSet's pod is for; before it is scheduled that stands in its affinity."""
    if pod.spec.node_name:
        return str(pod.spec.node_name)
    try:
        required = pod.spec.affinity.node_affinity.required_during_scheduling_ignored_during_execution
        terms = [field for term in required.node_selector_terms for field in term.match_fields or []]
        return next((str(field.values[0]) for field in terms if field.key == "metadata.name"), "")
    except AttributeError:
        return ""


def tolerations(pod: Any) -> list[Toleration]:
    """Of one pod, those that its DaemonSet's controller added among them."""
    found = pod.spec.tolerations or []
    return [Toleration(one.key or "", one.operator or "Equal", one.value or "", one.effect or "") for one in found]


def may_run(node: Any, tolerated: Collection[Toleration]) -> bool:
    """Whether a DaemonSet's pods with these tolerations are put on the node."""
    taints = [one for one in node.spec.taints or [] if one.effect in ("NoSchedule", "NoExecute")]
    return all(any(one.admits(taint) for one in tolerated) for taint in taints)
