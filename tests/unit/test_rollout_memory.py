"""What a controller measures itself."""

from edge.rollout.memory import REST_S, Memory
from edge.rollout.model import Decision
from tests.unit.test_rollout import TARGET, at


def saw(memory: Memory, now: float, *behind: str, well: tuple[str, ...] = ()) -> None:
    verdicts = dict.fromkeys(behind, "pending") | dict.fromkeys(well, "confirmed")
    memory.saw(Decision(at(), {}, behind=frozenset(behind), verdicts=verdicts), TARGET, now)


def test_a_node_that_is_well_for_a_moment_is_still_behind() -> None:
    memory = Memory().of(TARGET, at(), 100)
    saw(memory, 100, "a")
    for now in range(101, 700, 12):
        saw(memory, now, well=("a",))
        saw(memory, now + 5, "a")
    assert memory.behind_s(710)["a"] == 610, "a node that flaps is late in the end"
    saw(memory, 711, well=("a",))
    saw(memory, 722, well=("a",))
    assert memory.behind_s(723) == {}, "one that was well for as long as a wave is watched begins anew"


def test_a_node_that_goes_away_begins_anew() -> None:
    memory = Memory().of(TARGET, at(), 100)
    saw(memory, 100, "a")
    saw(memory, 200)
    saw(memory, 300, "a")
    assert memory.behind_s(301) == {"a": 1}


def test_the_time_of_a_phase_begins_with_it_and_with_the_process() -> None:
    baking = at(baking_since=50.0)
    memory = Memory().of(TARGET, baking, 100)
    assert memory.of(TARGET, baking, 105).phase_since == 100
    assert memory.of(TARGET, at(baking_since=60.0), 110).phase_since == 110


def test_another_target_is_another_memory() -> None:
    from dataclasses import replace

    memory = Memory().of(TARGET, at(), 100)
    saw(memory, 100, "a")
    memory.deleted("a", 100)
    assert memory.of(TARGET, at(), 101) is memory
    fresh = memory.of(replace(TARGET, revision=8), at(), 101)
    assert (fresh.behind_s(101), fresh.resting(101)) == ({}, frozenset())


def test_a_pod_that_was_replaced_rests_longer_each_time() -> None:
    memory = Memory()
    memory.deleted("a", 100)
    assert memory.resting(100 + REST_S - 1) == {"a"}
    assert memory.resting(100 + REST_S) == frozenset()
    memory.deleted("a", 200)
    assert memory.resting(200 + 2 * REST_S - 1) == {"a"}
    for _ in range(2000):
        memory.deleted("a", 300)
    assert memory.resting(301) == {"a"}
