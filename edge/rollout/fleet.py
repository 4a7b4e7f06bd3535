"""The cluster, as a rollout sees it: the chart's target, the nodes and what they say, the assignment.

The assignment is a ConfigMap that only the controller creates and writes (somebody else's write to one of the chart's
would break the next `helm upgrade` with a field conflict): one key a node, the version it shall serve. Its annotation
holds the progress, so both move in one write, by compare-and-swap on the resource version.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import urllib3
from kubernetes import client, config

from edge.rollout.decide import Decision, NodeView, Progress, Target, Wave
from edge.rollout.nodes import Asker, FarAsker, Looker, NearAsker
from edgedistill.errors import RolloutError

PROGRESS = "edgedistill.dev/rollout"
STOP = "edgedistill.dev/stop-requested"


@dataclass(frozen=True)
class Assignment:
    """What stands in the assignment ConfigMap."""

    versions: Mapping[str, int]  # node -> version
    progress: Progress | None
    stop_requested: int | None  # revision of the target that the operator stopped
    resource_version: str | None  # None: the ConfigMap is not there yet


class Fleet:
    """One release of the chart in one namespace.

    Args:
        release: name of the chart's release.
        namespace: its namespace.
        through_api_server: ask the pods through the API server's proxy, for a laptop that cannot reach them.
        certificate: PEM file: the nodes' TLS certificate, or who signed it; for nodes that are asked directly.

    Raises:
        ConfigError: `certificate` cannot be read.
        RolloutError (all methods): the API server does not answer or refuses.
    """

    def __init__(
        self, release: str, namespace: str, *, through_api_server: bool = False, certificate: Path | None = None
    ) -> None:
        self.release, self.namespace = release, namespace
        _configure()
        self._core = client.CoreV1Api()
        self._asker: Asker = FarAsker(self._core, namespace) if through_api_server else NearAsker(certificate)
        self._looker = Looker(self._asker)
        self._target_uid = ""

    def target(self) -> tuple[Target, dict[str, str]]:
        """What the chart wants, and the labels of the nodes that it is for."""
        name = f"{self.release}-target"
        found = _call(self._core.read_namespaced_config_map, name, self.namespace)
        self._target_uid = found.metadata.uid
        return parse_target(found.data["target.json"])

    def nodes(self, selector: Mapping[str, str], *, is_tls: bool = False) -> list[NodeView]:
        """Every node of the fleet; asks each running pod for its /status, over TLS when `is_tls`."""
        found = _call(self._core.list_node, label_selector=",".join(f"{k}={v}" for k, v in selector.items())).items
        labels = f"app.kubernetes.io/instance={self.release},app.kubernetes.io/component=node"
        pods = _call(self._core.list_namespaced_pod, self.namespace, label_selector=labels).items
        return self._looker.look(found, pods, is_tls=is_tls)

    def assignment(self) -> Assignment:
        """The assignment; empty before the first write."""
        try:
            found = _call(self._core.read_namespaced_config_map, self._assignment_name, self.namespace)
        except RolloutError as error:
            if isinstance(error.__cause__, client.ApiException) and error.__cause__.status == 404:
                return Assignment({}, None, None, None)
            raise
        notes = found.metadata.annotations or {}
        progress = Progress(**json.loads(notes[PROGRESS])) if PROGRESS in notes else None
        stop = int(notes[STOP]) if STOP in notes else None
        versions = {node: int(version) for node, version in (found.data or {}).items()}
        return Assignment(versions, progress, stop, found.metadata.resource_version)

    def write(self, decision: Decision, before: Assignment) -> None:
        """Write assignment and progress in one step; a write by somebody else in between is an error.

        The target owns it, so `helm uninstall` takes it away too.
        """
        notes = {PROGRESS: json.dumps(asdict(decision.progress), sort_keys=True)}
        if before.stop_requested is not None:
            notes[STOP] = str(before.stop_requested)
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
            _call(self._core.create_namespaced_config_map, self.namespace, body)
        else:
            _call(self._core.replace_namespaced_config_map, self._assignment_name, self.namespace, body)

    def request_stop(self, revision: int) -> None:
        """Ask the controller to stop this revision of the target and to send every node back."""
        body = {"metadata": {"annotations": {STOP: str(revision)}}}
        _call(self._core.patch_namespaced_config_map, self._assignment_name, self.namespace, body)

    def event(self, reason: str, message: str, *, is_warning: bool) -> None:
        """An Event on the target, for `kubectl get events`."""
        now = datetime.now(UTC)
        about = client.V1ObjectReference(
            api_version="v1", kind="ConfigMap", name=f"{self.release}-target", namespace=self.namespace
        )
        event = client.CoreV1Event(
            metadata=client.V1ObjectMeta(generate_name=f"{self.release}-rollout-"),
            involved_object=about,
            reason=reason,
            message=message,
            type="Warning" if is_warning else "Normal",
            first_timestamp=now,
            last_timestamp=now,
            count=1,
            source=client.V1EventSource(component="edgedistill-rollout"),
        )
        _call(self._core.create_namespaced_event, self.namespace, event)

    @property
    def _assignment_name(self) -> str:
        return f"{self.release}-assignment"


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
            runtime=str(document.get("runtime", "")),
            is_tls=bool(document.get("is_tls", False)),
        )
        return target, {str(k): str(v) for k, v in document["node_selector"].items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RolloutError(f"the chart's target makes no sense ({error!r}); upgrade the chart and the image") from error


def _configure() -> None:
    try:
        config.load_incluster_config()
    except config.ConfigException:
        try:
            config.load_kube_config()
        except config.ConfigException as error:
            raise RolloutError(f"no cluster is configured: {error}; set KUBECONFIG") from error


def _call(method: Any, *arguments: Any, **options: Any) -> Any:
    """One request, with a time limit; its failure in one sentence."""
    try:
        return method(*arguments, _request_timeout=10, **options)
    except (client.ApiException, urllib3.exceptions.HTTPError) as error:
        raise RolloutError(_sentence(error)) from error


def _sentence(error: Exception) -> str:
    if isinstance(error, client.ApiException):
        try:
            message = json.loads(error.body or "{}").get("message", error.reason)
        except ValueError:
            message = error.reason
        return f"the API server answered {error.status}: {message}"
    return f"the API server does not answer: {error}; check KUBECONFIG and the network"
