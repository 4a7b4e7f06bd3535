"""What the pods said at the controller's last look, for whoever cannot reach them: a laptop.

The controller serves it, and the laptop fetches it by a port-forward to the controller's pod. That goes through the
kubelet, where no network policy stands in its way; what the API server asks of pods itself may be cut, and is one
request a pod.
"""

import http.client
import json
import socket
from collections.abc import Callable
from typing import Any, Protocol

import urllib3
from kubernetes import client

from edge.rollout import facts
from edge.rollout.api import ApiError, read_all

PATH = "/statuses"
PORT = 8082  # of the controller's pod
STALE_S = 60.0  # a controller that has not looked for so long knows nothing
_BYTES = 64 << 20
_TIMEOUT_S = 20.0


class Forwarded(Protocol):
    """A way to a pod's port."""

    def socket(self, port: int) -> socket.socket: ...

    def close(self) -> None: ...


class Statuses:
    """The last answers of a fleet's pods, by the pods' uids.

    Args:
        core: the API.
        release: name of the chart's release.
        namespace: its namespace.
        forward: name of a pod and its port -> a way there.
    """

    def __init__(
        self, core: Any, release: str, namespace: str, *, forward: "Callable[[str, int], Forwarded] | None" = None
    ) -> None:
        self._core, self._release, self._namespace = core, release, namespace
        self._forward = forward or self._by_kubelet

    def fetch(self) -> dict[str, dict[str, Any] | None] | None:
        """What each pod said, None: nothing; None for all: no controller can be reached, or it knows nothing new."""
        labels = facts.selector(self._release, "controller")
        try:
            pods = read_all(self._core.list_namespaced_pod, self._namespace, label_selector=labels)
            name = next(facts.name_of(pod) for pod in pods if facts.is_ready(pod))
            document = self._get(name)
        except (StopIteration, ApiError, client.ApiException, urllib3.exceptions.HTTPError):
            return None
        except (OSError, http.client.HTTPException, ValueError, RecursionError):
            return None
        if not isinstance(document, dict) or not document.get("age_s", STALE_S) < STALE_S:
            return None
        statuses: dict[str, dict[str, Any] | None] = document["statuses"]
        return statuses

    def _get(self, pod: str) -> Any:
        forwarded = self._forward(pod, PORT)
        try:
            connection = http.client.HTTPConnection("127.0.0.1")  # for its Host header; the socket is connected
            connection.sock = forwarded.socket(PORT)
            connection.sock.settimeout(_TIMEOUT_S)
            connection.request("GET", PATH, headers={"Connection": "close"})
            answer = connection.getresponse()
            return json.loads(answer.read(_BYTES)) if answer.status == 200 else None
        finally:
            forwarded.close()

    def _by_kubelet(self, pod: str, port: int) -> Forwarded:
        from kubernetes.stream import portforward  # websockets: the controller itself needs none

        try:
            forwarded: Forwarded = portforward(
                self._core.connect_get_namespaced_pod_portforward, pod, self._namespace, ports=str(port)
            )
        except client.ApiException as error:
            if isinstance(error.__context__, KeyboardInterrupt):  # the client takes Ctrl-C for a failed connection
                raise KeyboardInterrupt from error
            raise
        return forwarded
