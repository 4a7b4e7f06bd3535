"""The rollout's decisions, as tables."""

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from edge.rollout.decide import decide as decide_next
from edge.rollout.model import Decision, NodeView, Progress, Target, Wave
from edge.rollout.verdicts import failure_limit, verdict, wave_numbers

TARGET = Target(
    name="demo",
    version=2,
    revision=7,
    waves=(Wave(label=("canary", "true")), Wave(percent=50), Wave(percent=100)),
    bake_s=10,
    failure_percent=5,
    away_percent=20,
    silence_s=60,
    deadline_s=600,
    runtime="new",
    is_tls=False,
)


def node(name: str, *, serves: int | None = 1, canary: bool = False, **changes: object) -> NodeView:
    """A healthy node on release 1."""
    labels = {"canary": "true"} if canary else {}
    view = NodeView(name, labels, True, 0.0, serves, serves, "serving", "", runtime="new")
    return replace(view, **changes)  # type: ignore[arg-type]


def fleet(size: int, *, serves: int = 1) -> list[NodeView]:
    return [node(f"edge-{i}", serves=serves, canary=i == 0) for i in range(size)]


def at(wave: int = 0, **changes: object) -> Progress:
    progress = Progress(2, 7, 1, wave, 1000.0, None, "rolling", "", "new", "new")
    return replace(progress, **changes)  # type: ignore[arg-type]


def decide(target: Target, progress: Progress | None, nodes: list[NodeView], *, now: float, **more: Any) -> Decision:
    """With the assignment that the waves of now would have made, unless another is given."""
    if "assigned" not in more:
        waves, wave = wave_numbers(target.waves, nodes), progress.wave if progress else -1
        more["assigned"] = {
            n.name: progress.version for n in nodes if progress and (waves[n.name] <= wave or progress.state == "done")
        }
    return decide_next(target, progress, nodes, now=now, **more)


def roll(nodes: list[NodeView], *, rounds: int = 400) -> tuple[list[Decision], list[NodeView]]:
    """Play a rollout in which each node takes what it is assigned, after one round."""
    progress, decisions = Progress(1, 6, None, 2, 0.0, None, "done", "", "new"), []
    assigned: Mapping[str, int] = {n.name: 1 for n in nodes}
    for number in range(rounds):
        decision = decide_next(TARGET, progress, nodes, now=1000.0 + number, assigned=assigned)
        assigned = decision.assignment
        decisions.append(decision)
        progress = decision.progress
        nodes = [replace(n, active=v, desired=v) if (v := decision.assignment.get(n.name)) else n for n in nodes]
    return decisions, nodes


def test_waves_are_the_canaries_then_shares_of_the_whole_fleet() -> None:
    numbers = wave_numbers(TARGET.waves, fleet(20))
    assert numbers["edge-0"] == 0
    assert [list(numbers.values()).count(wave) for wave in range(3)] == [1, 9, 10]


def test_without_a_canary_label_one_node_is_the_canary() -> None:
    numbers = wave_numbers(TARGET.waves, [node(f"edge-{i}") for i in range(20)])
    assert list(numbers.values()).count(0) == 1


def test_a_good_release_goes_wave_by_wave_and_each_bakes() -> None:
    decisions, nodes = roll(fleet(20))
    assert all(n.active == 2 for n in nodes)
    assert decisions[-1].progress.state == "done"
    sizes = [sum(v == 2 for v in d.assignment.values()) for d in decisions]
    assert sorted(set(sizes)) == [1, 10, 20]
    assert sizes.count(1) >= TARGET.bake_s
    assert sizes.count(10) >= TARGET.bake_s


@pytest.mark.parametrize(
    ("view", "is_late", "expected"),
    [
        (node("a", serves=2), False, "confirmed"),
        (node("a", serves=2, state="probation"), False, "pending"),
        (node("a"), False, "pending"),
        (node("a"), True, "failed"),
        (node("a", desired=2, refused="wrong_answer"), False, "failed"),
        (node("a", desired=1, refused="wrong_answer"), False, "pending"),
        (node("a", silent_s=61), False, "failed"),
        (node("a", silent_s=30), False, "pending"),
        (node("a", serves=2, silent_s=30), False, "pending"),
        (node("a", is_heard=False, silent_s=900), True, "away"),
        (node("a", serves=None, state="starting"), False, "pending"),
        (node("a", serves=2, state="something new"), False, "pending"),
    ],
)
def test_verdict(view: NodeView, is_late: bool, expected: str) -> None:
    assert verdict(view, TARGET, is_late=is_late) == expected


def with_canary(view: NodeView) -> list[NodeView]:
    return [view, *fleet(20)[1:]]


CANARY = node("edge-0", canary=True)


@pytest.mark.parametrize(
    ("progress", "nodes", "now", "state", "wave", "reason"),
    [
        (at(), with_canary(replace(CANARY, active=2)), 1001, "baking", 0, "is watched"),
        (at(baking_since=1000.0), with_canary(replace(CANARY, active=2)), 1011, "rolling", 1, "is open"),
        (
            at(),
            with_canary(replace(CANARY, desired=2, refused="crashed")),
            1001,
            "stopped",
            0,
            "edge-0 failed: crashed",
        ),
        (at(), with_canary(replace(CANARY, silent_s=100)), 1001, "stopped", 0, "its pod is silent"),
        (at(), with_canary(replace(CANARY, is_heard=False)), 1001, "rolling", 0, "every node of wave 1 is away"),
        (at(away_since=1000.0), with_canary(replace(CANARY, is_heard=False)), 1700, "stopped", 0, "was away for 600 s"),
        (at(), [], 1001, "rolling", 0, "no node yet"),
        (
            at(baking_since=1000.0),
            [*with_canary(replace(CANARY, active=2))[:15], *(replace(n, is_heard=False) for n in fleet(20)[15:])],
            1011,
            "baking",
            0,
            "over 20 % of the nodes are away; no new wave opens",
        ),
        (at(baking_since=1000.0), with_canary(replace(CANARY, desired=2, refused="died")), 1005, "stopped", 0, "died"),
    ],
)
def test_next_step(progress: Progress, nodes: list[NodeView], now: float, state: str, wave: int, reason: str) -> None:
    decision = decide(TARGET, progress, nodes, now=now)
    assert (decision.progress.state, decision.progress.wave) == (state, wave)
    assert reason in decision.progress.reason


def test_a_stopped_rollout_sends_everybody_back_and_stays_stopped() -> None:
    nodes = with_canary(replace(CANARY, desired=2, refused="crashed"))
    first = decide(TARGET, at(), nodes, now=1001)
    assert set(first.assignment.values()) == {1}
    healed = decide(TARGET, first.progress, fleet(20, serves=2), now=5000)
    assert healed.progress.state == "stopped"
    assert set(healed.assignment.values()) == {1}


def test_a_stopped_first_release_leaves_no_assignment() -> None:
    decision = decide(TARGET, at(settled=None), with_canary(replace(CANARY, refused="x", desired=2)), now=1001)
    assert decision.assignment == {}


def test_the_operator_stops_a_rollout() -> None:
    decision = decide(TARGET, at(wave=1), fleet(20), now=1001, stop=True)
    assert decision.progress.state == "stopped"
    assert set(decision.assignment.values()) == {1}


def test_a_newer_target_supersedes_and_an_unfinished_one_is_nobodys_fallback() -> None:
    newer = replace(TARGET, version=3, revision=8)
    decision = decide(newer, at(wave=1), fleet(20), now=1001)
    assert decision.progress.settled == 1
    assert decision.assignment["edge-0"] == 3
    assert sorted(set(decision.assignment.values())) == [1, 3]


def test_a_new_revision_of_the_chart_tries_a_stopped_version_again() -> None:
    again = replace(TARGET, revision=8)
    decision = decide(again, at(state="stopped"), fleet(20), now=1001)
    assert decision.progress.state == "rolling"
    assert decision.assignment["edge-0"] == 2


def test_a_few_failures_of_a_large_fleet_are_allowed() -> None:
    nodes = fleet(100, serves=2)
    spoiled = [replace(n, active=1, desired=2, refused="died") if i in (3, 4) else n for i, n in enumerate(nodes)]
    assert decide(TARGET, at(wave=2), spoiled, now=1001).progress.state == "baking"
    spoiled = [replace(n, active=1, desired=2, refused="died") if i < 5 else n for i, n in enumerate(nodes)]
    assert decide(TARGET, at(wave=2), spoiled, now=1001).progress.state == "stopped"


def test_a_node_that_joins_later_gets_what_the_fleet_has() -> None:
    done = at(wave=2, state="done")
    decision = decide(TARGET, done, [*fleet(3, serves=2), node("new", serves=None)], now=1001)
    assert decision.assignment["new"] == 2


def late(*names: str, seconds: float = 700) -> dict[str, float]:
    return dict.fromkeys(names, seconds)


@pytest.mark.parametrize(
    ("size", "percent", "limit"),
    [(0, 5, 1), (1, 5, 1), (3, 5, 1), (20, 5, 1), (21, 5, 2), (100, 5, 5), (100, 7, 7), (3000, 1.1, 33), (50, 0, 1)],
)
def test_the_failure_budget_in_nodes(size: int, percent: float, limit: int) -> None:
    assert failure_limit(replace(TARGET, failure_percent=percent), size) == limit


@pytest.mark.parametrize(("size", "failed", "state"), [(1, 1, "stopped"), (3, 1, "stopped"), (20, 1, "stopped")])
def test_one_failure_of_a_small_fleet_is_over_the_budget(size: int, failed: int, state: str) -> None:
    nodes = [replace(n, desired=2, active=1, refused="x") if i < failed else n for i, n in enumerate(fleet(size))]
    assert decide(TARGET, at(wave=2), nodes, now=1001).progress.state == state


def test_a_node_that_is_behind_for_too_long_has_failed() -> None:
    nodes = with_canary(replace(CANARY, desired=2))
    first = decide(TARGET, at(), nodes, now=9000)
    assert (first.progress.state, first.behind) == ("rolling", {"edge-0"})  # whatever the wave's age: it is measured
    told = decide(TARGET, at(), nodes, now=9000, behind_s=late("edge-0")).progress
    assert (told.state, told.reason) == ("stopped", "node edge-0 failed: it is still serving")


def test_who_comes_back_late_has_its_own_time() -> None:
    nodes = [replace(n, active=2) for n in fleet(20)]
    back = [replace(n, active=1, desired=2) if n.name == "edge-5" else n for n in nodes]
    decision = decide(TARGET, at(wave=2), back, now=9000)
    assert decision.progress.state == "baking"
    assert decision.behind == {"edge-5"}


def test_a_late_node_within_the_budget_does_not_stop_the_bake_again_and_again() -> None:
    nodes = [replace(n, active=1 if i == 3 else 2) for i, n in enumerate(fleet(40))]
    progress, states = at(wave=2), []
    for number in range(15):
        decision = decide(TARGET, progress, nodes, now=1001 + number, behind_s=late("edge-3"))
        progress = decision.progress
        states.append(progress.state)
    assert states == ["baking"] * 10 + ["done"] * 5


def test_all_of_a_later_wave_away_holds_and_then_is_left_to_catch_up() -> None:
    waves = wave_numbers(TARGET.waves, fleet(20))
    nodes = [replace(n, active=2, is_heard=waves[n.name] != 1) for n in fleet(20)]
    roomy = replace(TARGET, away_percent=60)
    gone = at(wave=1, away_since=1000.0)
    held = decide(roomy, gone, nodes, now=1500).progress
    assert (held.state, held.wave, held.reason) == ("rolling", 1, "every node of wave 2 is away")
    assert decide(roomy, gone, nodes, now=1601).progress.wave == 2
    assert decide(TARGET, gone, nodes, now=1601).progress.reason == "over 20 % of the nodes are away; no new wave opens"


def test_the_last_wave_away_does_not_keep_the_fleet() -> None:
    nodes = [replace(n, active=2) for n in fleet(3)]
    waves = wave_numbers(TARGET.waves, nodes)
    assert sorted(waves.values()) == [0, 1, 2]
    cut = [replace(n, is_heard=waves[n.name] != 2) for n in nodes]
    decision = decide(TARGET, at(wave=2), cut, now=1001)
    assert decision.progress.state == "done"
    assert "1 of 3 nodes are away and get it on their return" in decision.progress.reason
    assert set(decision.assignment.values()) == {2}


def test_a_fleet_that_is_away_as_a_whole_is_waited_for() -> None:
    nodes = [replace(n, active=2, is_heard=False) for n in fleet(3)]
    assert decide(TARGET, at(wave=2), nodes, now=9000).progress.state == "rolling"


def test_many_away_at_the_end_do_not_hold_what_is_done() -> None:
    nodes = [replace(n, active=2, is_heard=i < 10) for i, n in enumerate(fleet(20))]
    assert decide(TARGET, at(wave=2, baking_since=1000.0), nodes, now=1011).progress.state == "done"


def test_a_canary_that_goes_away_while_it_is_watched_is_waited_for_anew() -> None:
    nodes = with_canary(replace(CANARY, active=2, is_heard=False))
    first = decide(TARGET, at(baking_since=8000.0, state="baking"), nodes, now=9000).progress
    assert (first.state, first.away_since, first.baking_since) == ("rolling", 9000, None)
    assert decide(TARGET, first, nodes, now=9500).progress.state == "rolling"
    assert decide(TARGET, first, nodes, now=9601).progress.state == "stopped"


def test_all_nodes_leave_and_others_come() -> None:
    baking = at(wave=1, baking_since=1000.0, state="baking")
    empty = decide(TARGET, baking, [], now=5000)
    assert (empty.progress.state, empty.progress.baking_since, empty.assignment) == ("rolling", None, {})
    assert decide(TARGET, empty.progress, [], now=5001).progress == empty.progress, "nothing new is written"
    others = [node(f"other-{i}", serves=None, state="starting") for i in range(3)]
    again = decide(TARGET, empty.progress, others, now=9000)
    assert (again.progress.state, again.progress.wave) == ("rolling", 1)
    assert sorted(again.assignment.values()) == [1, 2, 2]
    assert len(again.behind) == 2


def moved_out(nodes: list[NodeView]) -> list[NodeView]:
    """All nodes of wave 2 (of a target with a labelled second wave) lose its label."""
    return [replace(n, labels={k: v for k, v in n.labels.items() if k != "second"}) for n in nodes]


def test_a_wave_whose_nodes_are_gone_is_not_jumped() -> None:
    waves = (Wave(("canary", "true")), Wave(("second", "true")), Wave(percent=100))
    target = replace(TARGET, waves=waves)
    nodes = [replace(n, labels={"second": "true"}) if i in (1, 2) else n for i, n in enumerate(fleet(20))]
    assert sorted(set(wave_numbers(waves, nodes).values())) == [0, 1, 2]
    behind = moved_out([replace(n, active=2 if i == 9 else 1) for i, n in enumerate(nodes)])
    held = decide(target, at(wave=1), behind, now=1001).progress
    assert (held.wave, held.state) == (1, "rolling"), "the canary has not got it"
    there = moved_out([replace(n, active=2 if i == 0 else 1) for i, n in enumerate(nodes)])
    watched = decide(target, at(wave=1), there, now=1001).progress
    assert (watched.wave, watched.state) == (1, "baking")
    assert decide(target, watched, there, now=1012).progress.wave == 2
    away = moved_out([replace(n, is_heard=i != 0) for i, n in enumerate(nodes)])
    assert decide(target, at(wave=1, away_since=1000.0), away, now=9000).progress.state == "rolling"


def test_waves_without_nodes_are_passed_over_at_once() -> None:
    target = replace(TARGET, waves=(Wave(percent=5), Wave(("nobody", "x")), Wave(percent=5), Wave(percent=100)))
    nodes = fleet(20)
    first = min(nodes, key=lambda n: wave_numbers(target.waves, nodes)[n.name]).name
    there = [replace(n, active=2) if n.name == first else n for n in nodes]
    opened = decide(target, at(baking_since=1000.0, state="baking"), there, now=1011).progress
    assert (opened.wave, opened.state) == (3, "rolling")
    alone = replace(TARGET, waves=(Wave(percent=100), Wave(("nobody", "x"))))
    done = decide(alone, at(baking_since=1000.0, state="baking"), [node("a", serves=2)], now=1011).progress
    assert (done.state, done.wave) == ("done", 1)


def test_fewer_waves_under_the_same_name_are_no_fault() -> None:
    fewer = replace(TARGET, waves=TARGET.waves[:1])
    assert decide(fewer, at(wave=2), fleet(3, serves=2), now=1001).progress.wave == 0


def test_the_time_away_begins_when_all_are_away() -> None:
    nodes = with_canary(replace(CANARY, is_heard=False))
    first = decide(TARGET, at(since=1000.0), nodes, now=9000).progress
    assert (first.state, first.away_since) == ("rolling", 9000)
    back = decide(TARGET, first, with_canary(CANARY), now=9100).progress
    assert back.away_since is None
    assert decide(TARGET, first, nodes, now=9601).progress.state == "stopped"


def test_a_clock_that_jumped_between_two_controllers_skips_no_watch_and_stops_nothing() -> None:
    nodes = with_canary(replace(CANARY, active=2))
    baking = at(baking_since=1000.0, state="baking")
    assert decide(TARGET, baking, nodes, now=99_999, watched_s=3).progress.wave == 0
    assert decide(TARGET, baking, nodes, now=99_999, watched_s=11).progress.wave == 1
    cut = with_canary(replace(CANARY, is_heard=False))
    gone = at(away_since=1000.0)
    assert decide(TARGET, gone, cut, now=99_999, watched_s=3).progress.state == "rolling"
    assert decide(TARGET, gone, cut, now=99_999, watched_s=601).progress.state == "stopped"


def test_other_releases_have_no_way_back_in_common() -> None:
    """Another release.name: what the fleet finished before means nothing to pods that follow the new one."""
    done = at(wave=2, state="done", version=9, revision=6, name="demo", runtime="new")
    other = replace(TARGET, name="other", version=9, runtime="next")
    nodes = [replace(n, active=9, desired=9) for n in fleet(20)]
    first = decide(other, done, nodes, now=1001, assigned={n.name: 9 for n in nodes})
    assert first.progress.state == "rolling", "the same number is not the same release"
    stopped = replace(first.progress, state="stopped")
    mixed = [replace(n, runtime="next") if i == 0 else n for i, n in enumerate(nodes)]
    back = decide(other, stopped, mixed, now=1002, assigned={}).assignment
    assert "edge-0" not in back
    assert back["edge-1"] == 9


def test_a_confirmed_node_that_goes_back_by_itself_counts_in_later_waves() -> None:
    nodes = [replace(n, active=2, desired=2) for n in fleet(20)]
    nodes[0] = replace(nodes[0], active=1, refused="died")
    decision = decide(TARGET, at(wave=1), nodes, now=1001)
    assert (decision.progress.state, decision.progress.reason) == ("stopped", "node edge-0 failed: died")


def test_a_lost_answer_is_no_lapse_and_a_dead_node_is() -> None:
    baking = at(baking_since=1000.0, state="baking")
    nodes = with_canary(replace(CANARY, active=2, silent_s=4))
    assert decide(TARGET, baking, nodes, now=1008).progress.baking_since == 1000
    dead = with_canary(replace(CANARY, active=2, silent_s=6))
    told = decide(TARGET, baking, dead, now=1008).progress
    assert (told.state, told.baking_since) == ("rolling", None)
    assert told.reason == "wave 1: node edge-0 is unwell again: its pod is silent"


def test_who_catches_up_holds_the_next_wave_but_not_the_watch() -> None:
    nodes = [replace(n, active=2, desired=2) for n in fleet(20)]
    nodes[0] = replace(nodes[0], active=1)
    progress = at(wave=1, baking_since=1000.0, state="baking")
    held = decide(TARGET, progress, nodes, now=1011).progress
    assert (held.wave, held.state, held.baking_since) == (1, "baking", 1000)
    assert held.reason == "wave 2 is done; nodes that came back meanwhile must follow first"
    nodes[0] = replace(nodes[0], active=2)
    assert decide(TARGET, held, nodes, now=1012).progress.wave == 2


@pytest.mark.parametrize("now", [10.0, 1005.0])
def test_a_clock_that_was_set_back_holds_nothing_up(now: float) -> None:
    nodes = with_canary(replace(CANARY, active=2))
    progress = decide(TARGET, at(since=5000.0, baking_since=6000.0, state="baking"), nodes, now=now).progress
    assert (progress.since, progress.baking_since) == (now, now)
    assert decide(TARGET, progress, nodes, now=now + 11).progress.wave == 1


def test_a_node_that_joins_takes_no_release_away_from_another() -> None:
    nodes = fleet(20)
    waves = wave_numbers(TARGET.waves, nodes)
    assigned = {n.name: 2 if waves[n.name] <= 1 else 1 for n in nodes}
    fewer = [n for n in nodes if waves[n.name] != 2 or n.name == "edge-19"]  # wave 2 is half of what is left
    moved = wave_numbers(TARGET.waves, fewer)
    away_now = [n.name for n in fewer if assigned[n.name] == 2 and moved[n.name] > 1]
    assert away_now, "the table is no test of it"
    decision = decide(TARGET, at(wave=1), fewer, now=1001, assigned=assigned)
    assert all(decision.assignment[name] == 2 for name in away_now)
    forgetful = decide(TARGET, at(wave=1), fewer, now=1001, assigned={})
    assert all(forgetful.assignment[name] == 1 for name in away_now), "without what is assigned they would be sent back"


def test_a_label_that_is_taken_away_takes_no_release_away() -> None:
    nodes = [replace(node("edge-0"), active=2, desired=2), node("edge-1", canary=True), *fleet(20)[2:]]
    decision = decide(TARGET, at(), nodes, now=1001, assigned={"edge-0": 2})
    assert {name for name, version in decision.assignment.items() if version == 2} == {"edge-0", "edge-1"}
    spoilt = [replace(nodes[0], active=1, refused="died"), *nodes[1:]]
    assert decide(TARGET, at(), spoilt, now=1001, assigned={"edge-0": 2}).progress.state == "stopped"
    back = decide(TARGET, at(state="stopped"), nodes, now=1001, assigned={"edge-0": 2})
    assert set(back.assignment.values()) == {1}, "a stop sends it back all the same"


def test_a_rollback_to_what_is_settled_in_the_middle_takes_all_back_at_once() -> None:
    back = replace(TARGET, version=1, revision=8)
    decision = decide(back, at(wave=1), fleet(20), now=1001)
    assert set(decision.assignment.values()) == {1}


def test_a_rollback_of_what_is_done_goes_wave_by_wave() -> None:
    back = replace(TARGET, version=1, revision=8)
    decision = decide(back, at(wave=2, state="done"), fleet(20, serves=2), now=1001)
    assert decision.progress.settled == 2
    assert {name for name, version in decision.assignment.items() if version == 1} == {"edge-0"}


def test_a_revision_that_changes_nothing_moves_nothing() -> None:
    done = at(wave=2, state="done", reason="it is there")
    decision = decide(replace(TARGET, revision=8), done, fleet(20, serves=2), now=5000)
    assert (decision.progress.state, decision.progress.revision) == ("done", 8)
    assert decision.progress.settled == 1
    assert set(decision.assignment.values()) == {2}


def test_a_stop_while_it_is_watched() -> None:
    decision = decide(TARGET, at(wave=1, baking_since=1000.0, state="baking"), fleet(20), now=1001, stop=True)
    assert (decision.progress.state, decision.progress.baking_since) == ("stopped", None)
    assert decide(TARGET, at(wave=2, state="done"), fleet(20), now=1001, stop=True).progress.state == "done"


def test_ten_thousand_nodes_in_under_a_second() -> None:
    nodes = [node(f"edge-{i}", serves=2, canary=i < 50) for i in range(10_000)]
    nodes = [replace(n, is_heard=False) if i % 10 == 0 else n for i, n in enumerate(nodes)]
    assigned = {n.name: 2 for n in nodes}
    began = time.perf_counter()
    decision = decide_next(TARGET, at(wave=1), nodes, now=1001, assigned=assigned, behind_s=late("edge-1", seconds=1))
    seconds = time.perf_counter() - began
    print(f"decide() on {len(nodes)} nodes: {seconds:.2f} s")
    assert len(decision.assignment) == 10_000
    assert seconds < 5  # a second is the promise; a busy machine gets more


def test_a_node_that_gets_it_changes_nothing_that_is_written() -> None:
    """Each write goes to every kubelet: a wave of thousands must not make thousands of them."""
    nodes, seen = fleet(20), set()
    waves = wave_numbers(TARGET.waves, nodes)
    assigned = {n.name: 2 if waves[n.name] <= 1 else 1 for n in nodes}
    for number in range(9):
        nodes = [replace(n, active=2) if i <= number else n for i, n in enumerate(nodes)]
        decision = decide(TARGET, at(wave=1), nodes, now=1001 + number, assigned=assigned)
        seen.add((decision.progress, tuple(decision.assignment.items())))
    assert len(seen) == 1
