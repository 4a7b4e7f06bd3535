"""How nodes and pods are read: who is heard, whose pod is in trouble, how long it is silent."""

from typing import Any

import pytest

from edge.rollout import facts
from edge.rollout.facts import Object
from edge.rollout.model import NodeView
from edge.rollout.nodes import Looker


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
    assert (gone.trouble, gone.runtime) == ("no pod", None)
    assert gone.silent_s < 1, "that is another trouble"


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
    ("said", "state"),
    [
        ({"active": 3, "desired": [], "state": {"x": 1}, "refused": 7}, "starting"),
        ({"active": {"version": True}, "desired": {"version": "2"}, "state": None, "refused": ""}, "starting"),
        ({}, "silent"),
    ],
)
def test_a_status_that_makes_no_sense_is_left_out(said: dict[str, Any], state: str) -> None:
    view = Looker(Answers({"a": said})).look([a_node()], [a_pod()])[0]
    assert (view.active, view.desired, view.state, view.refused) == (None, None, state, "")


def test_what_a_node_says_cannot_write_on_the_terminal() -> None:
    said = SERVING | {"refused": "\x1b[31mred\n" + "x" * 500}
    view = Looker(Answers({"a": said})).look([a_node()], [a_pod()])[0]
    assert view.refused.startswith("[31mredxxx")
    assert len(view.refused) < 101
