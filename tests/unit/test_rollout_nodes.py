"""How nodes and pods are read: who is heard, whose pod is in trouble, how long it is silent."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from edge.rollout import facts
from edge.rollout import nodes as module
from edge.rollout.facts import Object
from edge.rollout.model import NodeView
from edge.rollout.nodes import Looker, NearAsker, node_view


def a_node(name: str = "a", *, ready: str = "True", taints: list[Object] | None = None) -> Object:
    status = {"conditions": [{"type": "Ready", "status": ready}]}
    return {"metadata": {"name": name, "labels": {}}, "spec": {"taints": taints or []}, "status": status}


def a_pod(node: str = "a", *, uid: str = "1", ending: bool = False, **status: Any) -> Object:
    metadata: Object = {"name": f"pod-{node}", "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z"}
    if ending:
        metadata["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    known = {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": metadata, "spec": {"nodeName": node}, "status": known | status}


def waiting(reason: str, code: int | None = None) -> list[Object]:
    state = {"state": {"waiting": {"reason": reason}}}
    return [state | ({"lastState": {"terminated": {"exitCode": code}}} if code is not None else {})]


UNSCHEDULABLE = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no memory\nleft"}]


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (None, "no pod"),
        (a_pod(), ""),
        (a_pod(ending=True, containerStatuses=waiting("CrashLoopBackOff")), ""),
        (a_pod(phase="Pending", containerStatuses=waiting("ContainerCreating")), ""),
        (a_pod(phase="Pending", containerStatuses=waiting("ImagePullBackOff")), "ImagePullBackOff"),
        (a_pod(phase="Pending", containerStatuses=waiting("CreateContainerConfigError")), "CreateContainerConfigError"),
        (a_pod(containerStatuses=waiting("CrashLoopBackOff", 137)), "CrashLoopBackOff (it ended with code 137)"),
        (a_pod(initContainerStatuses=waiting("CrashLoopBackOff", 1)), "CrashLoopBackOff (it ended with code 1)"),
        (a_pod(phase="Pending", conditions=UNSCHEDULABLE), "Unschedulable: no memoryleft"),
        (a_pod(phase="Failed", reason="Evicted"), "Evicted"),
        (a_pod(phase="Failed"), "Failed"),
    ],
)
def test_trouble_is_what_is_not_just_a_start_or_an_end(pod: Object | None, expected: str) -> None:
    assert facts.trouble(pod) == expected


def test_of_several_pods_the_one_that_stays_counts() -> None:
    pods = [a_pod(uid="new"), a_pod(uid="old", ending=True), a_pod(uid="evicted", phase="Failed")]
    for order in (pods, pods[::-1]):
        assert facts.pods_by_node(order)["a"]["metadata"]["uid"] == "new"


def test_a_pod_that_finds_no_place_belongs_to_its_node() -> None:
    pod = a_pod()
    fields = [{"key": "metadata.name", "operator": "In", "values": ["edge-7"]}]
    required = {"nodeSelectorTerms": [{"matchFields": fields}]}
    pod["spec"] = {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}}
    assert set(facts.pods_by_node([pod])) == {"edge-7"}
    pod["spec"] = {}
    assert facts.pods_by_node([pod]) == {}


@pytest.mark.parametrize(
    ("taint", "tolerations", "expected"),
    [
        ({"key": "x", "effect": "NoSchedule"}, [], False),
        ({"key": "x", "effect": "PreferNoSchedule"}, [], True),
        ({"key": "x", "effect": "NoExecute"}, [{"operator": "Exists"}], True),
        ({"key": "x", "value": "1", "effect": "NoSchedule"}, [{"key": "x", "value": "1"}], True),
        ({"key": "x", "value": "1", "effect": "NoSchedule"}, [{"key": "x", "value": "2"}], False),
        ({"key": "x", "effect": "NoSchedule"}, [{"key": "x", "operator": "Exists", "effect": "NoExecute"}], False),
    ],
)
def test_a_node_where_no_pod_may_run_is_not_of_the_fleet(
    taint: Object, tolerations: list[Object], expected: bool
) -> None:
    other = a_pod("other")
    other["spec"]["tolerations"] = tolerations
    seen = Looker(Answers({})).look([a_node(taints=[taint]), a_node("other")], [other])
    assert ("a" in [view.name for view in seen]) == expected
    assert len(Looker(Answers({})).look([a_node(taints=[taint])], [a_pod()])) == 1, "it has a pod all the same"


def test_a_cut_off_node_is_of_the_fleet_before_its_first_pod() -> None:
    unreachable = [{"key": "node.kubernetes.io/unreachable", "effect": "NoExecute"}]
    assert len(Looker(Answers({})).look([a_node(taints=unreachable)], [])) == 1


class Answers:
    """Pods that say what stands here; None: nothing."""

    def __init__(self, said: dict[str, Any]) -> None:
        self.said, self.asked = said, list[str]()

    def refresh(self) -> None:
        pass

    def ask(self, pod: Object, *, is_tls: bool) -> dict[str, Any] | None:
        node = pod["spec"]["nodeName"]
        self.asked.append(node)
        found: dict[str, Any] | None = self.said.get(node)
        return found


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


SERVING = {"state": "serving", "active": {"version": 2}, "desired": {"version": 2}, "refused": ""}


def test_silence_begins_with_the_first_question_that_is_not_answered() -> None:
    answers, clock = Answers({"a": SERVING}), Clock()
    looker = Looker(answers, clock=clock)

    def look(node: Object, *pods: Object) -> NodeView:
        clock.now += 100
        return looker.look([node], list(pods))[0]

    assert look(a_node(), a_pod()).silent_s == 0
    answers.said = {}
    first, second = look(a_node(), a_pod()), look(a_node(), a_pod())
    assert 0 < first.silent_s < 1
    assert second.silent_s == 100
    assert (second.active, second.state) == (2, "serving"), "what it said last"
    assert look(a_node(ready="Unknown"), a_pod()).silent_s == 0, "away is not silent"
    assert look(a_node(), a_pod()).silent_s < 1, "who comes back has the whole time to answer"
    assert look(a_node(), a_pod(ending=True)).silent_s == 0, "a pod that ends is not silent"
    assert look(a_node(), a_pod(phase="Pending", podIP="")).silent_s == 0, "nor one that starts"
    fresh = look(a_node(), a_pod(uid="2"))
    assert (fresh.active, fresh.state) == (None, "silent"), "another pod has said nothing yet"


def test_a_pod_in_trouble_is_not_asked_and_its_time_runs() -> None:
    answers, clock = Answers({"a": SERVING}), Clock()
    looker = Looker(answers, clock=clock)
    broken = a_pod(containerStatuses=waiting("CrashLoopBackOff", 1))
    assert 0 < looker.look([a_node()], [broken])[0].silent_s < 1
    clock.now += 70
    view = looker.look([a_node()], [broken])[0]
    assert (view.silent_s, view.trouble, answers.asked) == (70, "CrashLoopBackOff (it ended with code 1)", [])
    clock.now += 70
    gone = looker.look([a_node()], [])[0]
    assert (gone.trouble, gone.runtime, gone.silent_s) == ("no pod", None, 140)


def test_who_was_not_asked_in_time_is_not_silent_and_comes_first_next_time() -> None:
    clock = Clock()

    class Slow(Answers):
        def ask(self, pod: Object, *, is_tls: bool) -> dict[str, Any] | None:
            clock.now += 10
            return super().ask(pod, is_tls=is_tls)

    names = [f"n{i}" for i in range(100)]
    answers = Slow(dict.fromkeys(names, SERVING))
    looker = Looker(answers, look_s=50, clock=clock)
    fleet, pods = [a_node(name) for name in names], [a_pod(name) for name in names]
    first = looker.look(fleet, pods)
    reached = set(answers.asked)
    assert 0 < len(reached) < 100
    assert all(view.silent_s == 0 for view in first)
    for _ in range(100):
        looker.look(fleet, pods)
    assert set(answers.asked) == set(names)


@pytest.mark.parametrize(
    "said",
    [
        {"active": 3, "desired": [], "state": {"x": 1}, "refused": 7},
        {"active": {"version": True}, "desired": {"version": "2"}, "state": None},
        {},
    ],
)
def test_a_status_that_makes_no_sense_is_left_out(said: dict[str, Any]) -> None:
    view = node_view("a", {}, said, is_heard=True, silent_s=0)
    assert (view.active, view.desired, view.state, view.refused) == (None, None, "starting", "")


def test_what_a_node_says_cannot_write_on_the_terminal() -> None:
    view = node_view("a", {}, {"refused": "\x1b[31mred\n" + "x" * 500}, is_heard=True, silent_s=0)
    assert view.refused.startswith("[31mredxxx")
    assert len(view.refused) < 101


@contextmanager
def server(body: bytes, *, status: int = 200, drip_s: float = 0.0) -> Iterator[int]:
    """Answers with `body`; `drip_s`: endlessly, a piece at a time."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if not drip_s else 1 << 40))
            self.send_header("Location", "/elsewhere")
            self.end_headers()
            try:
                self.wfile.write(body)
                while drip_s:
                    self.wfile.write(b" " * 1000)
                    time.sleep(drip_s)
            except OSError:
                return

        def log_message(self, *_: object) -> None:
            pass

    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.daemon_threads = True
    thread = threading.Thread(target=found.serve_forever)
    thread.start()
    try:
        yield found.server_port
    finally:
        found.shutdown()
        thread.join()
        found.server_close()


@pytest.mark.parametrize(
    ("body", "status", "drip_s", "expected"),
    [
        (json.dumps(SERVING).encode(), 200, 0, SERVING),
        (json.dumps(SERVING).encode(), 503, 0, None),
        (json.dumps(SERVING).encode(), 302, 0, None),
        (b"[1]", 200, 0, None),
        (b"not json", 200, 0, None),
        (b"[" * 100_000, 200, 0, None),
        (b" " * (2 << 20), 200, 0, None),
        (b"", 200, 0.1, None),
    ],
    ids=["right", "unwell", "redirect", "list", "text", "deep", "large", "endless"],
)
def test_a_pod_is_asked_within_limits(
    body: bytes, status: int, drip_s: float, expected: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", 0.5)
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")  # a pod's address is the cluster's own
    with server(body, status=status, drip_s=drip_s) as port:
        monkeypatch.setattr(module, "STATUS_PORT", port)
        began = time.monotonic()
        pod = a_pod(podIP="127.0.0.1")
        assert NearAsker().ask(pod, is_tls=False) == expected
        assert time.monotonic() - began < 10
    assert NearAsker().ask(pod, is_tls=False) is None, "nobody is there"
