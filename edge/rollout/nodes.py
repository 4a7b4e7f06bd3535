"""The nodes of a fleet, as the cluster's objects and their own /status show them."""

import json
import ssl
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import urllib3
from kubernetes import client

from edge.rollout import facts
from edge.rollout.model import NodeView
from edge.rollout.pin import Pin
from edge.rollout.question import BYTES, ask
from edge.rollout.statuses import Statuses

STATUS_PORT = 8080
TIMEOUT_S = 3.0  # of one question
LOOK_S = 20.0  # of all questions of one look; who was not asked by then is asked first in the next one
AT_ONCE = 32  # questions; more threads only fight for one interpreter
_TOLD = ("active", "desired", "state", "refused")  # every node says these


class Asker(Protocol):
    """A way to the pods."""

    def refresh(self) -> None:
        """Take over what changed since the last look. Not while pods are asked."""

    def ask(self, pod: facts.Object, *, is_tls: bool) -> dict[str, Any] | None:
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

    def refresh(self) -> None:
        """Take over a certificate that changed."""
        if self._pin:
            self._pin.look()

    def ask(self, pod: facts.Object, *, is_tls: bool) -> dict[str, Any] | None:
        ways: Sequence[ssl.SSLContext | None] = (self._pin.contexts if self._pin else ()) if is_tls else (None,)
        answers = (ask(pod["status"]["podIP"], STATUS_PORT, "/status", timeout_s=TIMEOUT_S, tls=way) for way in ways)
        return next((one for one in answers if one is not None), None)


class FarAsker:
    """Asks the controller what the pods told it; without one, the pods through the API server's proxy.

    The proxy checks no certificate of theirs, and network policies may be in its way.
    """

    def __init__(self, core: Any, namespace: str, statuses: Statuses) -> None:
        self._core, self._namespace, self._statuses = core, namespace, statuses
        self._told: Mapping[str, dict[str, Any] | None] | None = None

    def refresh(self) -> None:
        self._told = self._statuses.fetch()

    def ask(self, pod: facts.Object, *, is_tls: bool) -> dict[str, Any] | None:
        if self._told is not None and pod["metadata"]["uid"] in self._told:
            return self._told[pod["metadata"]["uid"]]
        name = f"{'https:' if is_tls else ''}{facts.name_of(pod)}:{STATUS_PORT}"
        try:
            answer = self._core.connect_get_namespaced_pod_proxy_with_path(
                name, self._namespace, "status", _preload_content=False, _request_timeout=(TIMEOUT_S, 2 * TIMEOUT_S)
            )
            document = json.loads(_read(answer))
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
        self.pods: Mapping[str, facts.Object] = {}  # of the last look, by node
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ask")

    def look(
        self, nodes: Iterable[facts.Object], pods: Sequence[facts.Object], *, is_tls: bool = False
    ) -> list[NodeView]:
        """Every node on which the fleet's pods may run."""
        self.pods = by_node = facts.pods_by_node(pods)
        tolerated = {one for pod in pods for one in facts.tolerations(pod)} or facts.TOLERATED
        named = ((facts.name_of(node), node) for node in nodes)
        fleet = {name: node for name, node in named if name in by_node or facts.may_run(node, tolerated)}
        self._known = {name: self._known.get(name, _Memory()) for name in fleet}
        heard = {name for name, node in fleet.items() if facts.is_heard(node)}
        answers = self._ask([name for name in fleet if name in heard and facts.is_running(by_node.get(name))], is_tls)
        return [self._view(node, by_node.get(name), answers, is_heard=name in heard) for name, node in fleet.items()]

    def statuses(self) -> dict[str, dict[str, Any] | None]:
        """What the pods said when they were asked last, by their uids; None: nothing."""
        return {one.pod: one.status if one.unanswered is None else None for one in self._known.values() if one.asked}

    def _ask(self, names: list[str], is_tls: bool) -> dict[str, dict[str, Any] | None]:
        """The /status of each pod that was reached in time, the one that waits longest first; None: it gave none."""
        self._asker.refresh()
        names.sort(key=lambda name: self._known[name].asked)
        ends = self._clock() + self._look_s
        answers: dict[str, dict[str, Any] | None] = {}

        def one(name: str) -> None:
            if self._clock() < ends:
                self._known[name].asked = self._clock()
                answers[name] = None
                answers[name] = _told(self._asker.ask(self.pods[name], is_tls=facts.is_tls(self.pods[name], is_tls)))

        # Whoever is still asked then has given no answer; the API server's proxy has no limit of the whole.
        for done in wait([self._pool.submit(one, name) for name in names], 2 * self._look_s).done:
            done.result()
        return dict(answers)

    def _view(
        self,
        node: facts.Object,
        pod: facts.Object | None,
        answers: Mapping[str, dict[str, Any] | None],
        *,
        is_heard: bool,
    ) -> NodeView:
        name, now, trouble = facts.name_of(node), self._clock(), facts.trouble(pod)
        known, uid = self._known[name], pod["metadata"]["uid"] if pod else ""
        if known.pod != uid:  # another pod has the whole time to answer, whatever the one before it did
            known.pod, known.status, known.unanswered = uid, None, None
        status = answers.get(name)
        if status is not None:
            known.status = status
        # A pod that is being started is late, not silent; and one that comes back has the whole time to answer.
        if status is not None or not is_heard or (not trouble and not facts.is_running(pod)):
            known.unanswered = None
        elif known.unanswered is None and (trouble or name in answers):
            known.unanswered = now
        silent_s = 0.0 if known.unanswered is None else max(now - known.unanswered, 0.001)
        said = known.status or {}
        return NodeView(
            name=name,
            labels=node["metadata"].get("labels", {}),
            is_heard=is_heard,
            silent_s=silent_s,
            active=_version(said.get("active")),
            desired=_version(said.get("desired")),
            state=said.get("state") or ("silent" if silent_s else "starting"),
            refused=said.get("refused", ""),
            runtime=facts.runtime(pod),
            is_ready=facts.is_ready(pod),
            trouble=trouble,
        )


def _told(status: dict[str, Any] | None) -> dict[str, Any] | None:
    """What is kept of a /status, which a hostile node wrote as it liked; None: no node says this."""
    if status is None or not set(_TOLD) <= set(status):
        return None
    words = {key: facts.printable(status[key]) for key in ("state", "refused")}
    return words | {key: _release(status[key]) for key in ("active", "desired")}


def _release(said: Any) -> dict[str, Any] | None:
    version = said.get("version") if isinstance(said, dict) else None
    if not isinstance(version, int) or isinstance(version, bool) or not 0 < version < 1 << 31:
        return None
    return {"name": facts.printable(said.get("name")), "version": version}


def _version(release: dict[str, Any] | None) -> int | None:
    return release["version"] if release else None


def _read(answer: Any) -> bytes:
    """The body of an answer of the client's; each read has a limit, and so has the whole. Raises ValueError."""
    ends, body = time.monotonic() + 2 * TIMEOUT_S, bytearray()
    while piece := answer.read1(1 << 16):
        body += piece
        if len(body) > BYTES or time.monotonic() > ends:
            answer.close()
            raise ValueError("too long")
    answer.release_conn()
    return bytes(body)
