"""The rollout's decisions, as tables."""

from dataclasses import replace

import pytest

from edge.rollout.decide import Decision, NodeView, Progress, Target, Wave, decide, verdict, wave_numbers

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
    view = NodeView(name, labels, True, 0.0, serves, serves, "serving", "")
    return replace(view, **changes)  # type: ignore[arg-type]


def fleet(size: int, *, serves: int = 1) -> list[NodeView]:
    return [node(f"edge-{i}", serves=serves, canary=i == 0) for i in range(size)]


def at(wave: int = 0, **changes: object) -> Progress:
    progress = Progress(2, 7, 1, wave, 1000.0, None, "rolling", "")
    return replace(progress, **changes)  # type: ignore[arg-type]


def roll(nodes: list[NodeView], *, rounds: int = 400) -> tuple[list[Decision], list[NodeView]]:
    """Play a rollout in which each node takes what it is assigned, after one round."""
    progress, decisions = Progress(1, 6, None, 2, 0.0, None, "done", ""), []
    for number in range(rounds):
        decision = decide(TARGET, progress, nodes, now=1000.0 + number)
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
        (at(), with_canary(replace(CANARY, desired=2)), 1700, "stopped", 0, "still serving"),
        (at(), with_canary(replace(CANARY, is_heard=False)), 1001, "rolling", 0, "every node of wave 1 is away"),
        (at(), with_canary(replace(CANARY, is_heard=False)), 1700, "stopped", 0, "was away for 600 s"),
        (at(), [], 1001, "rolling", 0, "no node yet"),
        (
            at(baking_since=1000.0),
            [*with_canary(replace(CANARY, active=2))[:15], *(replace(n, is_heard=False) for n in fleet(20)[15:])],
            1011,
            "rolling",
            0,
            "5 of 20 nodes are away",
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
