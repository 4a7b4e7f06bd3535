"""The cluster, as a rollout sees it: the chart's target, the nodes and what they say, the assignment.

The assignment is a ConfigMap that only the controller creates and writes (somebody else's write to one of the chart's
would break the next `helm upgrade` with a field conflict): one key a node, the version it shall serve. Its annotation
holds the progress, so both move in one write, by compare-and-swap on the resource version.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kubernetes import client

from edge.rollout import facts
from edge.rollout.api import ApiError, call, connect, read, read_all
from edge.rollout.model import STATES, Decision, NodeView, Progress, Target, Wave
from edge.rollout.nodes import AT_ONCE, Asker, FarAsker, Looker, NearAsker
from edge.rollout.statuses import Statuses
from edgedistill.errors import RolloutError

PROGRESS = "edgedistill.dev/rollout"
STOP = "edgedistill.dev/stop-requested"
CHART = "app.kubernetes.io/name=student-edge"


@dataclass(frozen=True)
class Assignment:
    """What stands in the assignment ConfigMap."""

    versions: Mapping[str, int]  # node -> version
    progress: Progress | None
    stop_requested: str  # `stop_mark` of the target that the operator stopped; empty: none
    resource_version: str | None  # None: the ConfigMap is not there yet


class Fleet:
    """One release of the chart in one namespace.

    Args:
        release: name of the chart's release.
        namespace: its namespace.
        through_api_server: for a laptop that cannot reach the pods: ask the controller what they told it.
        certificate: PEM file: the nodes' TLS certificate, or who signed it; for nodes that are asked directly.

    Raises:
        ConfigError: `certificate` cannot be read.
        RolloutError (all methods): the API server does not answer or refuses.
    """

    def __init__(
        self, release: str, namespace: str, *, through_api_server: bool = False, certificate: Path | None = None
    ) -> None:
        self.release, self.namespace = release, namespace
        self._core = connect(AT_ONCE)
        statuses = Statuses(self._core, release, namespace)
        asker: Asker = FarAsker(self._core, namespace, statuses) if through_api_server else NearAsker(certificate)
        self._looker = Looker(asker)
        self._target_uid = ""
        self._heartbeats: dict[str, datetime | None] = {}

    def target(self) -> tuple[Target, dict[str, str]]:
        """What the chart wants, and the labels of the nodes that it is for."""
        try:
            found = read(self._core.read_namespaced_config_map, f"{self.release}-target", self.namespace)
        except ApiError as error:
            if error.status == 404:
                raise ApiError(self._unknown(), 404) from error
            raise
        self._target_uid = found["metadata"]["uid"]
        return parse_target(found.get("data", {}).get("target.json", ""))

    def nodes(self, selector: Mapping[str, str], *, is_tls: bool = False) -> list[NodeView]:
        """Every node of the fleet; asks each running pod for its /status, over TLS when `is_tls`."""
        chosen = ",".join(f"{key}={value}" for key, value in selector.items())
        found = read_all(self._core.list_node, keep=facts.slim_node, label_selector=chosen)
        labels = facts.selector(self.release, "node")
        pods = read_all(self._core.list_namespaced_pod, self.namespace, keep=facts.slim_pod, label_selector=labels)
        self._heartbeats = {facts.name_of(node): facts.heartbeat(node) for node in found}
        return self._looker.look(found, pods, is_tls=is_tls)

    def statuses(self) -> dict[str, dict[str, Any] | None]:
        """What the pods said at the last look, by their uids; None: nothing."""
        return self._looker.statuses()

    def last_heard(self) -> dict[str, datetime]:
        """When each kubelet of the last look was heard: by its Lease, where those may be read, else by its status."""
        leases = client.CoordinationV1Api(self._core.api_client)
        try:
            found = read_all(leases.list_namespaced_lease, "kube-node-lease")
        except ApiError as error:
            if error.status != 403:
                raise
            found = []
        renewed = {facts.name_of(one): facts.moment(one.get("spec", {}).get("renewTime")) for one in found}
        times = {name: renewed.get(name) or beat for name, beat in self._heartbeats.items()}
        return {name: moment for name, moment in times.items() if moment}

    def assignment(self) -> Assignment:
        """The assignment; empty before the first write."""
        try:
            found = read(self._core.read_namespaced_config_map, self._assignment_name, self.namespace)
        except ApiError as error:
            if error.status == 404:
                return Assignment({}, None, "", None)
            raise
        notes = found["metadata"].get("annotations", {})
        try:
            progress = parse_progress(notes[PROGRESS]) if PROGRESS in notes else None
            versions = {node: int(version) for node, version in found.get("data", {}).items()}
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            message = f"the ConfigMap {self._assignment_name} is not as the controller wrote it ({error}); delete it"
            raise RolloutError(message) from error
        return Assignment(versions, progress, notes.get(STOP, ""), found["metadata"]["resourceVersion"])

    def write(self, decision: Decision, before: Assignment, target: Target) -> None:
        """Write assignment and progress in one step; a write by somebody else in between is an error.

        A request to stop is kept until it was obeyed, or the target is another one: `helm rollback` may bring back the
        very target that was stopped.

        The target owns it, so `helm uninstall` takes it away too.
        """
        notes = {PROGRESS: json.dumps(asdict(decision.progress), sort_keys=True)}
        if not decision.progress.is_over and before.stop_requested == stop_mark(target):
            notes[STOP] = before.stop_requested
        labels = {"app.kubernetes.io/instance": self.release, "app.kubernetes.io/managed-by": "edgedistill-rollout"}
        owner = client.V1OwnerReference(
            api_version="v1", kind="ConfigMap", name=f"{self.release}-target", uid=self._target_uid
        )
        metadata = client.V1ObjectMeta(
            name=self._assignment_name,
            labels=labels,
            annotations=notes,
            owner_references=[owner],
            resource_version=before.resource_version,
        )
        data = {node: str(version) for node, version in sorted(decision.assignment.items())}
        body = client.V1ConfigMap(metadata=metadata, data=data)
        if before.resource_version is None:
            call(self._core.create_namespaced_config_map, self.namespace, body)
        else:
            call(self._core.replace_namespaced_config_map, self._assignment_name, self.namespace, body)

    def replace_pod(self, node: str) -> str:
        """Delete the node's pod that the last look saw, and no other; its name, or empty: it was gone already."""
        pod = self._looker.pods.get(node)
        if pod is None:
            return ""
        body = client.V1DeleteOptions(preconditions=client.V1Preconditions(uid=pod["metadata"]["uid"]))
        try:
            call(self._core.delete_namespaced_pod, facts.name_of(pod), self.namespace, body=body)
        except ApiError as error:
            if error.status in (404, 409):
                return ""
            raise
        return facts.name_of(pod)

    def request_stop(self, target: Target) -> None:
        """Ask the controller to stop this target and to send every node back."""
        body = {"metadata": {"annotations": {STOP: stop_mark(target)}}}
        call(self._core.patch_namespaced_config_map, self._assignment_name, self.namespace, body)

    def event(self, reason: str, message: str, *, is_warning: bool) -> None:
        """An Event on the target, for `kubectl get events`."""
        now = datetime.now(UTC)
        about = client.V1ObjectReference(
            api_version="v1",
            kind="ConfigMap",
            name=f"{self.release}-target",
            namespace=self.namespace,
            uid=self._target_uid,
        )
        event = client.CoreV1Event(
            metadata=client.V1ObjectMeta(generate_name=f"{self.release}-rollout-"),
            involved_object=about,
            reason=reason,
            message=message[:1024],
            type="Warning" if is_warning else "Normal",
            first_timestamp=now,
            last_timestamp=now,
            count=1,
            source=client.V1EventSource(component="edgedistill-rollout"),
        )
        call(self._core.create_namespaced_event, self.namespace, event)

    @property
    def _assignment_name(self) -> str:
        return f"{self.release}-assignment"

    def _unknown(self) -> str:
        """A sentence about a release that is not there, with those that are, where they may be listed."""
        try:
            found = read_all(self._core.list_config_map_for_all_namespaces, label_selector=CHART)
        except ApiError:
            try:
                found = read_all(self._core.list_namespaced_config_map, self.namespace, label_selector=CHART)
            except ApiError:
                found = []
        known = sorted(
            f"--release {name.removesuffix('-target')} -n {one['metadata']['namespace']}"
            for one in found
            if (name := facts.name_of(one)).endswith("-target")
        )
        said = f"the chart has no release {self.release!r} in the namespace {self.namespace!r}"
        if not known:
            return f"{said}; see: helm list --all-namespaces"
        return f"{said}; give {', or '.join(known[:5])}{' ...' if len(known) > 5 else ''}"


def stop_mark(target: Target) -> str:
    """Names a target in a request to stop it. Its revision alone does not: Argo CD renders each as the first."""
    return f"{target.revision}/{target.version}/{target.runtime}"


def parse_progress(text: str) -> Progress:
    """Read the annotation; what another version of the controller wrote beside it is left out. Raises ValueError."""
    document, known = json.loads(text), {one.name for one in fields(Progress)}
    if not isinstance(document, dict):
        raise ValueError(f"{text[:50]!r} is no progress")
    found = Progress(**{key: value for key, value in document.items() if key in known})
    numbers = (found.version, found.revision, found.wave, found.deletions)
    times = [one for one in (found.since, found.baking_since, found.away_since) if one is not None]
    words = (found.reason, found.runtime, found.settled_runtime, found.name, found.settled_name)
    is_right = (
        all(type(one) is int and one >= 0 for one in numbers)
        and (found.settled is None or type(found.settled) is int)
        and all(isinstance(one, int | float) and math.isfinite(one) for one in times)
        and isinstance(found.since, int | float)
        and all(isinstance(one, str) for one in words)
        and found.state in STATES
    )
    if not is_right:
        raise ValueError(f"{text[:200]!r} is no progress")
    return found


def parse_target(text: str) -> tuple[Target, dict[str, str]]:
    """Read the chart's target.json.

    Raises:
        RolloutError: it is not what the chart renders.
    """
    try:
        document = json.loads(text)
        waves = [
            Wave(tuple(w["label"]) if "label" in w else None, float(w.get("percent", 0))) for w in document["waves"]
        ]
        if not waves:
            raise ValueError("no waves")
        target = Target(
            name=str(document["name"]),
            version=int(document["version"]),
            revision=int(document["revision"]),
            waves=tuple(waves),
            bake_s=float(document["bake_s"]),
            failure_percent=float(document["failure_percent"]),
            away_percent=float(document["away_percent"]),
            silence_s=float(document["silence_s"]),
            deadline_s=float(document["deadline_s"]),
            runtime=str(document["runtime"]),
            is_tls=bool(document["is_tls"]),
        )
        return target, {str(k): str(v) for k, v in document["node_selector"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RolloutError(f"the chart's target makes no sense ({error!r}); upgrade the chart and the image") from error
