"""The nodes of a fleet, as the cluster's objects and their own /status show them."""

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import httpx
import urllib3
from kubernetes import client

from edge.rollout import facts
from edge.rollout.decide import NodeView
from edge.rollout.pin import Pin

RUNTIME = "edgedistill.dev/runtime"
STATUS_PORT = 8080
TIMEOUT_S = 3.0  # of one question
LOOK_S = 20.0  # of all questions of one look; who was not asked by then is asked first in the next one
STATUS_BYTES = 1 << 20
_AT_ONCE = 64


class Asker(Protocol):
    """A way to the pods."""

    def ask(self, pod: Any, *, is_tls: bool) -> dict[str, Any] | None:
        """A pod's /status; None: it gave none."""


class NearAsker:
    """Asks the pods by their addresses.

    Args:
        certificate: PEM file: the nodes' TLS certificate, or who signed it; read again when it changes.

    Raises:
        ConfigError: `certificate` cannot be read.
    """

    def __init__(self, certificate: Path | None = None) -> None:
        self._pin = Pin(certificate) if certificate else None
        self._plain = self._client(True)
        self._secure = [self._client(context) for context in self._pin.contexts] if self._pin else []

    def refresh(self) -> None:
        """Take over a certificate that changed. Not while pods are asked."""
        if self._pin and self._pin.look():
            for one in self._secure:
                one.close()
            self._secure = [self._client(context) for context in self._pin.contexts]

    def ask(self, pod: Any, *, is_tls: bool) -> dict[str, Any] | None:
        address = pod.status.pod_ip
        host = f"[{address}]" if ":" in address else address
        for one in self._secure if is_tls else [self._plain]:
            status = self._get(one, f"{'https' if is_tls else 'http'}://{host}:{STATUS_PORT}/status")
            if status is not None:
                return status
        return None

    def _client(self, verify: Any) -> httpx.Client:
        # No proxy of the environment: a pod's address is the cluster's own.
        limits = httpx.Limits(max_connections=_AT_ONCE, max_keepalive_connections=_AT_ONCE)
        return httpx.Client(timeout=TIMEOUT_S, verify=verify, trust_env=False, limits=limits)

    def _get(self, http: httpx.Client, url: str) -> dict[str, Any] | None:
        ends, body = time.monotonic() + 2 * TIMEOUT_S, bytearray()
        try:
            with http.stream("GET", url, headers={"Accept-Encoding": "identity"}) as answer:
                answer.raise_for_status()
                for chunk in answer.iter_raw():
                    body += chunk
                    if len(body) > STATUS_BYTES or time.monotonic() > ends:  # whoever answers there, it is no node
                        return None
            document = json.loads(body)
        except (httpx.HTTPError, ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None


class FarAsker:
    """Asks the pods through the API server's proxy, which checks no certificate of theirs."""

    def __init__(self, core: Any, namespace: str) -> None:
        self._core, self._namespace = core, namespace

    def ask(self, pod: Any, *, is_tls: bool) -> dict[str, Any] | None:
        name = f"{'https:' if is_tls else ''}{pod.metadata.name}:{STATUS_PORT}"
        try:
            answer = self._core.connect_get_namespaced_pod_proxy_with_path(
                name, self._namespace, "status", _preload_content=False, _request_timeout=2 * TIMEOUT_S
            )
            document = json.loads(answer.read(STATUS_BYTES))
            answer.release_conn()
        except (client.ApiException, urllib3.exceptions.HTTPError, ValueError, RecursionError):
            return None
        return document if isinstance(document, dict) else None


@dataclass
class _Memory:
    """What is remembered of a node between two looks. Times are monotonic, and begin with this process."""

    pod: str = ""  # uid of the pod that the rest is about
    asked: float = 0.0
    unanswered: float | None = None  # the first question that it did not answer, or its trouble's begin
    status: dict[str, Any] | None = None  # the last one


class Looker:
    """Looks at the nodes again and again, and measures how long a pod has been silent.

    Silence is measured from this process's start: what the controller has not seen itself it does not count.
    """

    def __init__(self, asker: Asker, *, look_s: float = LOOK_S, clock: Callable[[], float] = time.monotonic) -> None:
        self._asker, self._look_s, self._clock = asker, look_s, clock
        self._known: dict[str, _Memory] = {}
        self._pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="ask")

    def look(self, nodes: Iterable[Any], pods: Sequence[Any], *, is_tls: bool = False) -> list[NodeView]:
        """Every node on which the fleet's pods may run."""
        by_node = facts.pods_by_node(pods)
        tolerations = {one for pod in pods for one in facts.tolerations(pod)} or facts.TOLERATED
        fleet = [node for node in nodes if node.metadata.name in by_node or facts.may_run(node, tolerations)]
        self._known = {node.metadata.name: self._known.get(node.metadata.name, _Memory()) for node in fleet}
        answers = self._ask(fleet, by_node, is_tls)
        return [self._view(node, by_node.get(node.metadata.name), answers) for node in fleet]

    def _ask(self, fleet: Sequence[Any], by_node: Mapping[str, Any], is_tls: bool) -> dict[str, dict[str, Any] | None]:
        """The /status of each pod that was reached in time, the one that waits longest first; None: it gave none."""
        if isinstance(self._asker, NearAsker):
            self._asker.refresh()
        names = [n.metadata.name for n in fleet if _is_asked(n, by_node)]
        names.sort(key=lambda name: self._known[name].asked)
        ends = self._clock() + self._look_s
        answers: dict[str, dict[str, Any] | None] = {}

        def one(name: str) -> None:
            if self._clock() < ends:
                self._known[name].asked = self._clock()
                answers[name] = self._asker.ask(by_node[name], is_tls=is_tls)

        for done in wait([self._pool.submit(one, name) for name in names]).done:
            done.result()
        return answers

    def _view(self, node: Any, pod: Any, answers: Mapping[str, dict[str, Any] | None]) -> NodeView:
        name, is_heard, now = node.metadata.name, facts.is_heard(node), self._clock()
        known, uid, trouble = self._known[name], pod.metadata.uid if pod else "", facts.trouble(pod)
        if known.pod != uid:
            known.pod, known.status = uid, None
        status = answers.get(name)
        if status is not None:
            known.status = status
        # A pod that is being started is late, not silent; and one that comes back has the whole time to answer.
        if status is not None or not is_heard or (not trouble and not facts.is_running(pod)):
            known.unanswered = None
        elif known.unanswered is None and (trouble or name in answers):
            known.unanswered = now
        silent_s = 0.0 if known.unanswered is None else max(now - known.unanswered, 0.001)
        return node_view(
            name,
            node.metadata.labels or {},
            status if status is not None else known.status,
            is_heard=is_heard,
            silent_s=silent_s,
            runtime=(pod.metadata.annotations or {}).get(RUNTIME, "") if pod else "",
            is_ready=facts.is_ready(pod),
            trouble=trouble,
        )


def _is_asked(node: Any, by_node: Mapping[str, Any]) -> bool:
    return facts.is_heard(node) and facts.is_running(by_node.get(node.metadata.name))


def node_view(
    name: str,
    labels: Mapping[str, str],
    status: Mapping[str, Any] | None,
    *,
    is_heard: bool,
    silent_s: float,
    runtime: str = "",
    is_ready: bool = True,
    trouble: str = "",
) -> NodeView:
    """A node, from what its /status said; None: it said nothing. What makes no sense in it is left out."""
    said = status or {}
    return NodeView(
        name=name,
        labels=labels,
        is_heard=is_heard,
        silent_s=silent_s,
        active=_version(said.get("active")),
        desired=_version(said.get("desired")),
        state=facts.printable(said.get("state")) or ("silent" if silent_s else "starting"),
        refused=facts.printable(said.get("refused")),
        runtime=runtime,
        is_ready=is_ready,
        trouble=trouble,
    )


def _version(release: Any) -> int | None:
    version = release.get("version") if isinstance(release, dict) else None
    return version if isinstance(version, int) and not isinstance(version, bool) else None
