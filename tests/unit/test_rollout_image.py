"""Pods of another template than the target's are replaced wave by wave, and a broken image stops at the first one."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pytest

from edge.rollout.decide import decide
from edge.rollout.model import Decision, NodeView, Progress, Target
from edge.rollout.verdicts import failure_limit, verdict, wave_numbers
from tests.unit.test_rollout import TARGET, at, fleet, node

BOTH = replace(TARGET, runtime="next")  # another release and another image
IMAGE = replace(BOTH, version=1)  # the release that is served already, in another image
DONE = Progress(1, 6, None, 2, 0.0, None, "done", "", "new")


def start(node: NodeView) -> NodeView:
    """As the DaemonSet's next pod is seen first."""
    return replace(node, runtime="next", is_ready=False, active=None, desired=None, state="starting")


@dataclass
class Play:
    """A rollout in which a deleted pod is gone for one look, starts in the next one, and is ready in the third."""

    target: Target
    nodes: list[NodeView]
    progress: Progress = DONE
    assigned: Mapping[str, int] | None = None
    broken: frozenset[str] = frozenset()  # nodes on which the new image does not run
    now: float = 1000.0

    def __post_init__(self) -> None:
        self.assigned = self.assigned or {n.name: self.progress.version for n in self.nodes}
        self.deleted: list[str] = []
        self.most_gone = 0

    def look(self) -> Decision:
        decision = decide(self.target, self.progress, self.nodes, now=self.now, assigned=self.assigned or {})
        self.progress, self.assigned = decision.progress, decision.assignment
        self.deleted += decision.replace
        self.nodes = [self._lives(n, n.name in decision.replace) for n in self.nodes]
        self.most_gone = max(self.most_gone, sum(n.is_heard and not n.is_ready for n in self.nodes))
        self.now += 1
        return decision

    def looks(self, number: int) -> "Play":
        for _ in range(number):
            self.look()
        return self

    def _lives(self, node: NodeView, is_deleted: bool) -> NodeView:
        version = (self.assigned or {}).get(node.name)
        if not node.is_heard:
            return node
        if is_deleted:
            return replace(node, runtime=None, is_ready=False, active=None, state="starting", refused="")
        if node.runtime is None:
            return start(node)
        if node.runtime == "next" and node.name in self.broken:
            return replace(node, trouble="ImagePullBackOff", silent_s=node.silent_s + 1)
        return replace(node, is_ready=True, active=version, desired=version, state="serving")


@pytest.mark.parametrize("target", [IMAGE, BOTH], ids=["image", "image and release"])
def test_pods_go_wave_by_wave_and_one_at_a_time(target: Target) -> None:
    play = Play(target, fleet(20)).looks(300)
    waves = wave_numbers(target.waves, play.nodes)
    assert play.progress.state == "done"
    assert sorted(play.deleted) == sorted(n.name for n in play.nodes), "each pod once"
    assert [waves[name] for name in play.deleted] == sorted(waves.values()), "in the order of the waves"
    assert play.most_gone == failure_limit(target, 20) == 1
    assert {(n.runtime, n.active) for n in play.nodes} == {("next", target.version)}


def test_a_larger_fleet_may_lose_as_many_pods_at_once_as_may_fail() -> None:
    play = Play(IMAGE, fleet(100)).looks(300)
    assert play.progress.state == "done"
    assert play.most_gone == 5


def test_a_new_release_alone_replaces_no_pod() -> None:
    nodes = [replace(n, runtime="new") for n in fleet(20)]
    assert Play(TARGET, nodes).looks(200).deleted == []
    any_pod = Play(replace(TARGET, runtime=""), [replace(n, runtime="whatever") for n in nodes]).looks(200)
    assert (any_pod.deleted, any_pod.progress.state) == ([], "done")


def test_pods_of_a_chart_that_knew_no_runtime_are_replaced() -> None:
    old = replace(DONE, runtime="")
    play = Play(IMAGE, [replace(n, runtime="") for n in fleet(3)], old).looks(200)
    assert len(play.deleted) == 3
    assert play.progress.state == "done"


def test_a_broken_image_stops_at_the_first_wave_and_no_further_pod_goes() -> None:
    play = Play(BOTH, fleet(20), broken=frozenset(f"edge-{i}" for i in range(20))).looks(50)
    assert (play.progress.state, play.deleted) == ("rolling", ["edge-0"])
    play.looks(100)
    assert play.progress.state == "stopped"
    assert play.progress.reason == (
        "node edge-0 failed: its pod is in ImagePullBackOff; helm rollback brings back the pods as they were"
    )
    assert play.looks(50).deleted == ["edge-0"]
    assert set((play.assigned or {}).values()) == {1}


def test_helm_rollback_after_a_broken_image_mends_the_first_wave_alone() -> None:
    play = Play(BOTH, fleet(20), broken=frozenset(["edge-0"])).looks(150)
    assert play.progress.state == "stopped"
    broken = next(n for n in play.nodes if n.name == "edge-0")
    assert broken.trouble == "ImagePullBackOff"
    back = replace(TARGET, version=1, revision=9)
    first = decide(back, play.progress, play.nodes, now=2000, assigned=play.assigned or {})
    assert first.replace == ("edge-0",)
    assert first.progress.state == "rolling"
    again = [
        replace(n, runtime="new", trouble="", silent_s=0.0, is_ready=True, active=1, state="serving")
        for n in play.nodes
    ]
    progress, assigned = first.progress, first.assignment
    for number in range(100):
        decision = decide(back, progress, again, now=2001 + number, assigned=assigned)
        progress, assigned = decision.progress, decision.assignment
        assert decision.replace == ()
    assert progress.state == "done"


def test_a_first_install_with_a_broken_image_names_no_rollback() -> None:
    first = Progress(1, 1, None, 0, 0.0, None, "rolling", "", "next")
    nodes = [replace(start(n), trouble="ErrImagePull", silent_s=61) for n in fleet(3)]
    decision = decide(replace(IMAGE, revision=1), first, nodes, now=1001, assigned={})
    assert decision.progress.reason == "node edge-0 failed: its pod is in ErrImagePull"


def test_the_old_pod_is_told_the_new_release_only_when_it_goes() -> None:
    play = Play(BOTH, fleet(20))
    first = play.look()
    assert first.replace == ("edge-0",)
    assert {name for name, version in first.assignment.items() if version == 2} == {"edge-0"}
    wave = replace(at(wave=1), runtime="next")
    open_now = [replace(n, runtime="new") for n in fleet(20)]
    decision = decide(BOTH, wave, open_now, now=1001, assigned={n.name: 1 for n in open_now})
    assert len(decision.replace) == 1
    assert [name for name, version in decision.assignment.items() if version == 2] == list(decision.replace)


def test_a_node_that_waits_for_its_turn_is_not_late() -> None:
    wave = replace(at(wave=1), runtime="next")
    decision = decide(BOTH, wave, fleet(20), now=1001, assigned={})
    assert decision.behind == frozenset(decision.replace)
    stuck = decide(BOTH, wave, fleet(20), now=1001, assigned={}, behind_s={decision.replace[0]: 700.0})
    assert stuck.progress.state == "stopped", "a pod that cannot be deleted is a failure in the end"


def test_a_node_that_comes_back_with_an_old_pod_after_the_end_gets_a_new_one() -> None:
    nodes = fleet(20)
    cut = [replace(n, is_heard=n.name not in ("edge-4", "edge-7")) for n in nodes]
    play = Play(BOTH, cut).looks(300)
    assert play.progress.state == "done"
    assert (play.assigned or {})["edge-4"] == 1, "its old pod might refuse the new release for good"
    assert "edge-4" not in play.deleted
    play.nodes = [replace(n, is_heard=True) for n in play.nodes]
    assert play.look().replace == ("edge-4",), "one at a time"
    play.looks(10)
    assert play.deleted[-2:] == ["edge-4", "edge-7"]
    assert {(n.runtime, n.active) for n in play.nodes} == {("next", 2)}


def test_a_pod_that_does_not_work_anyway_goes_first() -> None:
    nodes = [replace(n, is_ready=n.name != "edge-9") for n in fleet(20)]
    done = replace(DONE, revision=7, runtime="next", version=2)
    assert decide(BOTH, done, nodes, now=1001, assigned={}).replace == ("edge-9",)


def test_what_an_old_pod_refuses_is_not_the_new_ones_fault() -> None:
    nodes = [replace(n, desired=2, refused="cannot_compile") if i == 0 else n for i, n in enumerate(fleet(20))]
    play = Play(BOTH, nodes)
    assert play.look().progress.state == "rolling"
    play.looks(300)
    assert play.progress.state == "done"


def test_superseded_in_the_middle_the_next_image_goes_from_the_first_wave() -> None:
    play = Play(BOTH, fleet(20)).looks(60)
    assert play.progress.state in ("rolling", "baking")
    assert 1 < len(play.deleted) < 20
    before = len(play.deleted)
    play.target = replace(BOTH, version=3, revision=8, runtime="new")
    play.look()
    assert (play.progress.wave, play.progress.settled, play.progress.settled_runtime) == (0, 1, "new")
    assert play.looks(5).deleted[before:][:1] == ["edge-0"], "after the pod that was under way"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"runtime": "next"}, "confirmed"),
        ({"runtime": "next", "is_ready": False}, "pending"),
        ({"runtime": "new"}, "pending"),
        ({"runtime": "new", "silent_s": 900, "trouble": "CrashLoopBackOff"}, "pending"),
        ({"runtime": None, "is_ready": False}, "pending"),
        ({"runtime": None, "is_ready": False, "trouble": "no pod", "silent_s": 59}, "pending"),
        ({"runtime": None, "is_ready": False, "trouble": "no pod", "silent_s": 61}, "failed"),
        ({"runtime": "next", "is_ready": False, "trouble": "CrashLoopBackOff", "silent_s": 61}, "failed"),
        ({"runtime": "next", "is_ready": False, "trouble": "ImagePullBackOff", "silent_s": 30}, "pending"),
        ({"runtime": "new", "is_heard": False}, "away"),
    ],
)
def test_verdict_of_a_pod(changes: dict[str, Any], expected: str) -> None:
    assert verdict(replace(node("a", serves=2), **changes), BOTH) == expected


def test_a_daemonset_that_makes_old_pods_is_not_fed_with_them() -> None:
    wave = replace(at(), runtime="next")
    first = decide(BOTH, wave, fleet(20), now=1001, assigned={})
    assert first.replace == ("edge-0",)
    second = decide(BOTH, first.progress, fleet(20), now=1002, assigned={}, resting={"edge-0"})
    assert second.replace == ()
    assert second.behind == {"edge-0"}, "its time runs"
    late = decide(BOTH, wave, fleet(20), now=1700, assigned={}, resting={"edge-0"}, behind_s={"edge-0": 700.0})
    assert late.progress.state == "stopped"
    assert "node edge-0 failed: its pod is not of the chart's template" in late.progress.reason
    open_now = replace(at(wave=1), runtime="next")
    held = decide(BOTH, open_now, fleet(20), now=1001, assigned={}, resting={"edge-0"})
    assert held.replace == (), "it is one that is under way"


def test_one_broken_pod_does_not_keep_the_others_from_theirs() -> None:
    done = replace(DONE, revision=7, runtime="next", version=2)
    nodes = [replace(n, runtime="next", active=2) for n in fleet(20)]
    nodes[3] = replace(nodes[3], is_ready=False, trouble="CrashLoopBackOff", silent_s=30)
    nodes[5] = replace(nodes[5], runtime="new")
    assert decide(BOTH, done, nodes, now=1001, assigned={}).replace == ()
    nodes[3] = replace(nodes[3], silent_s=61)
    assert decide(BOTH, done, nodes, now=1001, assigned={}).replace == ("edge-5",)
    nodes[3] = replace(nodes[3], trouble="", silent_s=0)
    stuck = decide(BOTH, done, nodes, now=1001, assigned={}, behind_s={"edge-3": 700.0})
    assert stuck.replace == ("edge-5",)


def test_pods_under_way_count_on_the_whole_fleet() -> None:
    waves = wave_numbers(BOTH.waves, fleet(20))
    last = next(name for name, wave in waves.items() if wave == 2)
    nodes = [replace(n, runtime=None, is_ready=False) if n.name == last else n for n in fleet(20)]
    assert decide(BOTH, replace(at(), runtime="next"), nodes, now=1001, assigned={}).replace == ()


def test_each_deletion_is_a_write() -> None:
    first = decide(IMAGE, replace(DONE, revision=7, runtime="next"), fleet(20), now=1001, assigned={})
    assert (len(first.replace), first.progress.deletions) == (1, 1)
