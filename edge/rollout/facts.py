"""Facts about nodes and pods, read from the cluster's objects: JSON as the API server sends it.

The client's own classes take milliseconds a node to fill; a look at a thousand nodes would be seconds of CPU time.
"""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple

RUNTIME = "edgedistill.dev/runtime"  # annotation of the node pods
SCHEME = "edgedistill.dev/scheme"  # annotation of the node pods: http or https
_STARTING = ("ContainerCreating", "PodInitializing")
Object = dict[str, Any]


class Toleration(NamedTuple):
    """A taint that a pod may live with; what is empty matches everything."""

    key: str
    operator: str = "Exists"
    value: str = ""
    effect: str = ""

    def admits(self, taint: Object) -> bool:
        """Whether it is about this taint."""
        is_about = self.key in ("", taint["key"]) and self.effect in ("", taint["effect"])
        return is_about and (self.operator == "Exists" or self.value == taint.get("value", ""))


# What every DaemonSet's pods tolerate, for a fleet that has no pod yet.
TOLERATED = frozenset(
    Toleration(f"node.kubernetes.io/{name}")
    for name in (
        *("not-ready", "unreachable", "disk-pressure", "memory-pressure", "pid-pressure"),
        *("unschedulable", "network-unavailable"),
    )
)


def printable(value: Any) -> str:
    """A word of a node's or its kubelet's, fit for a terminal, an Event and an annotation."""
    return "".join(one for one in value[:100] if one.isprintable()) if isinstance(value, str) else ""


def slim_node(node: Object) -> Object:
    """What is read of a node here; the whole has 20 kB, of which thousands do not fit the controller's memory."""
    kept = [one for one in node.get("status", {}).get("conditions", []) if one["type"] == "Ready"]
    metadata = {key: node["metadata"].get(key, {}) for key in ("name", "labels")}
    taints = node.get("spec", {}).get("taints", [])
    return {"metadata": metadata, "spec": {"taints": taints}, "status": {"conditions": kept}}


def slim_pod(pod: Object) -> Object:
    """What is read of a pod here."""
    metadata = {key: value for key, value in pod["metadata"].items() if key != "managedFields"}
    spec = {key: value for key, value in pod["spec"].items() if key in ("nodeName", "affinity", "tolerations")}
    return {"metadata": metadata, "spec": spec, "status": pod.get("status", {})}


def selector(release: str, component: str) -> str:
    """Selects the pods of one component of a release of the chart."""
    return f"app.kubernetes.io/instance={release},app.kubernetes.io/component={component}"


def name_of(thing: Object) -> str:
    """The object's name."""
    return str(thing["metadata"]["name"])


def is_heard(node: Object) -> bool:
    """Whether its kubelet reports."""
    # The node controller says Unknown when the kubelet's lease is stale, by one clock: its own.
    return bool(_condition(node, "Ready").get("status", "Unknown") != "Unknown")


def heartbeat(node: Object) -> datetime | None:
    """When the kubelet last told of itself in full; it does so every five minutes at least."""
    return moment(_condition(node, "Ready").get("lastHeartbeatTime"))


def moment(text: Any) -> datetime | None:
    """A time of the API server's."""
    try:
        return datetime.fromisoformat(text).astimezone(UTC)
    except (TypeError, ValueError):
        return None


def is_running(pod: Object | None) -> bool:
    """Whether it can be asked."""
    status = pod["status"] if pod and not is_ending(pod) else {}
    return status.get("phase") == "Running" and bool(status.get("podIP")) and not trouble(pod)


def is_ready(pod: Object | None) -> bool:
    """Whether the pod is ready, and stays."""
    return pod is not None and not is_ending(pod) and _condition(pod, "Ready").get("status") == "True"


def is_ending(pod: Object) -> bool:
    """Whether it is being deleted."""
    return "deletionTimestamp" in pod["metadata"]


def runtime(pod: Object | None) -> str | None:
    """Of its template, empty for one without; None: there is no pod, or it is ending."""
    if pod is None or is_ending(pod):
        return None
    return str(pod["metadata"].get("annotations", {}).get(RUNTIME, ""))


def is_tls(pod: Object, by_target: bool) -> bool:
    """Whether the pod's ports speak TLS: while TLS is switched on or off there are pods of both kinds.

    Args:
        by_target: what the target says, for a pod that does not.
    """
    scheme = pod["metadata"].get("annotations", {}).get(SCHEME, "")
    return scheme == "https" if scheme else by_target


def trouble(pod: Object | None) -> str:
    """Why a pod does not run, when that is not just its start or its end; empty: it runs, or is on its way."""
    if pod is None:
        return "no pod"
    if is_ending(pod):
        return ""
    status = pod["status"]
    for one in [*status.get("initContainerStatuses", []), *status.get("containerStatuses", [])]:
        reason = one.get("state", {}).get("waiting", {}).get("reason", "")
        if reason and reason not in _STARTING:
            ended = one.get("lastState", {}).get("terminated")
            told = printable(reason)
            return f"{told} (it ended with code {int(ended['exitCode'])})" if ended else told
    scheduled = _condition(pod, "PodScheduled")
    if scheduled.get("status") == "False":
        return f"{printable(scheduled.get('reason')) or 'Unschedulable'}: {printable(scheduled.get('message'))}"
    return printable(status.get("reason")) or "Failed" if status.get("phase") == "Failed" else ""


def pods_by_node(pods: Sequence[Object]) -> dict[str, Object]:
    """The pod of each node; of several the one that stays, and of those the newest."""

    def rank(pod: Object) -> tuple[bool, bool, str]:
        return not is_ending(pod), pod["status"].get("phase") != "Failed", pod["metadata"]["creationTimestamp"]

    return {name: pod for pod in sorted(pods, key=rank) if (name := _node_of(pod))}


def tolerations(pod: Object) -> Iterator[Toleration]:
    """Of one pod, those that its DaemonSet's controller added among them."""
    for one in pod["spec"].get("tolerations", []):
        yield Toleration(one.get("key", ""), one.get("operator", "Equal"), one.get("value", ""), one.get("effect", ""))


def may_run(node: Object, tolerated: Collection[Toleration]) -> bool:
    """Whether a DaemonSet's pods with these tolerations are put on the node."""
    taints = [one for one in node["spec"].get("taints", []) if one["effect"] in ("NoSchedule", "NoExecute")]
    return all(any(one.admits(taint) for one in tolerated) for taint in taints)


def _condition(thing: Object, kind: str) -> Object:
    return next((one for one in thing.get("status", {}).get("conditions", []) if one["type"] == kind), {})


def _node_of(pod: Object) -> str:
    """The node that a DaemonSet's pod is for; before it is scheduled that stands in its affinity."""
    if pod["spec"].get("nodeName"):
        return str(pod["spec"]["nodeName"])
    affinity = pod["spec"].get("affinity", {}).get("nodeAffinity", {})
    required = affinity.get("requiredDuringSchedulingIgnoredDuringExecution", {})
    fields = [field for term in required.get("nodeSelectorTerms", []) for field in term.get("matchFields", [])]
    return next((str(field["values"][0]) for field in fields if field["key"] == "metadata.name"), "")
