"""While the nodes' TLS is switched: each pod is asked as it speaks, and a new pod begins with a clean slate."""

from typing import Any

import pytest

from edge.rollout import facts
from edge.rollout.facts import Object
from edge.rollout.nodes import Looker

NODE: Object = {
    "metadata": {"name": "a", "labels": {}},
    "spec": {"taints": []},
    "status": {"conditions": [{"type": "Ready", "status": "True"}]},
}
STATUS = {"active": None, "desired": None, "state": "waiting", "refused": ""}


def a_pod(uid: str, scheme: str = "", **status: Any) -> Object:
    notes = {facts.SCHEME: scheme} if scheme else {}
    metadata = {"name": f"pod-{uid}", "uid": uid, "creationTimestamp": "2026-01-01T00:00:00Z", "annotations": notes}
    known = {"phase": "Running", "podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}
    return {"metadata": metadata, "spec": {"nodeName": "a"}, "status": known | status}


class Mute:
    """Pods that do not answer; keeps how each was asked."""

    def __init__(self, says: dict[str, Any] | None = None) -> None:
        self.says, self.asked = says, list[bool]()

    def refresh(self) -> None:
        pass

    def ask(self, pod: Object, *, is_tls: bool) -> dict[str, Any] | None:
        self.asked.append(is_tls)
        return self.says


@pytest.mark.parametrize(
    ("scheme", "by_target", "expected"),
    [("http", True, False), ("https", False, True), ("", True, True), ("", False, False)],
)
def test_a_pod_is_asked_as_it_speaks(scheme: str, by_target: bool, expected: bool) -> None:
    asker = Mute(STATUS)
    Looker(asker).look([NODE], [a_pod("1", scheme)], is_tls=by_target)
    assert asker.asked == [expected]


def test_a_new_pod_does_not_inherit_the_silence_of_the_one_before() -> None:
    now = [0.0]
    looker = Looker(Mute(), clock=lambda: now[0])

    def silent_s(pod: Object) -> float:
        (view,) = looker.look([NODE], [pod])
        return view.silent_s

    silent_s(a_pod("1"))
    now[0] = 100.0
    assert silent_s(a_pod("1")) == 100.0
    # Its first second: the volume's claim is not there yet, which the scheduler calls trouble.
    waits = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no claim yet"}
    new = a_pod("2", phase="Pending", podIP="", conditions=[waits])
    assert silent_s(new) < 1
    now[0] = 130.0
    assert silent_s(new) == 30.0
