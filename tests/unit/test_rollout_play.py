"""Hundreds of fleets that live through everything at once, and what must hold at each look of every one of them."""

import json
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace

import pytest

from edge.rollout import decide as module
from edge.rollout.decide import decide
from edge.rollout.fleet import parse_progress
from edge.rollout.memory import Memory
from edge.rollout.model import Decision, NodeView, Progress, Target, Wave
from edge.rollout.verdicts import failure_limit, wave_numbers

SEED = 20260101
FLEETS = 60
LOOKS = 120
LOOK_S = 3.0
GOOD = 9  # a release that every node takes
FIRST = Target(
    name="demo",
    version=1,
    revision=1,
    waves=(Wave(("canary", "true")), Wave(percent=10), Wave(percent=50), Wave(percent=100)),
    bake_s=20,
    failure_percent=5,
    away_percent=50,
    silence_s=60,
    deadline_s=300,
    runtime="A",
    is_tls=False,
)


@dataclass
class Node:
    """One node and its pod."""

    name: str
    is_canary: bool
    runtime: str
    active: int | None = 1
    refused: str = ""
    is_heard: bool = True
    is_mute: bool = False  # its pod runs and does not answer
    silent_s: float = 0.0
    starts: int = 0  # looks until its new pod is ready; the first two of them there is none

    def view(self, told: int | None) -> NodeView:
        labels = {"canary": "true"} if self.is_canary else {}
        if self.starts:
            runtime = None if self.starts > 2 else self.runtime
            return NodeView(
                self.name, labels, self.is_heard, 0.0, None, None, "starting", "", runtime=runtime, is_ready=False
            )
        return NodeView(
            *(self.name, labels, self.is_heard, self.silent_s, self.active, told, "serving", self.refused),
            runtime=self.runtime,
        )

    def live(self, told: int | None, bad: set[int], runtime: str) -> None:
        """Until the next look."""
        self.silent_s = self.silent_s + LOOK_S if self.is_mute and self.is_heard and not self.starts else 0.0
        if not self.is_heard or self.is_mute:
            return
        if self.starts:
            self.starts -= 1
            if self.starts == 2:
                self.runtime, self.active, self.refused = runtime, None, ""
        elif told is not None:
            self.refused = "wrong_answer" if told in bad else ""
            self.active = (self.active or 1) if told in bad else told


@dataclass
class World:
    """A fleet, its cluster and its controllers, one after another."""

    random: random.Random
    nodes: list[Node] = field(default_factory=list)
    target: Target = FIRST
    progress: Progress = field(default_factory=lambda: Progress(1, 1, None, 3, 0.0, None, "done", "", "A", name="demo"))
    assigned: Mapping[str, int] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)
    clock: float = 1000.0
    monotonic: float = 50_000.0
    bad: set[int] = field(default_factory=set)
    stop: bool = False
    seen: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        size = self.random.choice([1, 2, 3, 5, 20, 30])
        self.nodes = [Node(f"e{i}", self.random.random() < 0.15, "A") for i in range(size)]
        self.assigned = {node.name: 1 for node in self.nodes}
        self.bad = {version for version in (2, 3) if self.random.random() < 0.3}

    def look(self) -> None:
        views = [node.view(self.assigned.get(node.name)) for node in self.nodes]
        self.memory = self.memory.of(self.target, self.progress, self.monotonic)
        decision = decide(
            self.target,
            self.progress,
            views,
            now=self.clock,
            assigned=self.assigned,
            behind_s=self.memory.behind_s(self.monotonic),
            watched_s=self.monotonic - self.memory.phase_since,
            resting=self.memory.resting(self.monotonic),
            stop=self.stop,
        )
        self.hold(decision, views)
        self.memory.saw(decision, self.target, self.monotonic)
        for name in decision.replace:
            self.memory.deleted(name, self.monotonic)
        self.seen[decision.progress.state] += 1
        self.seen["replaced"] += len(decision.replace)
        self.progress, self.assigned = decision.progress, decision.assignment
        for node in self.nodes:
            if node.name in decision.replace:
                node.starts, node.silent_s, node.is_mute = 4, 0.0, False
            node.live(self.assigned.get(node.name), self.bad, self.target.runtime)
        self.clock, self.monotonic = self.clock + LOOK_S, self.monotonic + LOOK_S

    def hold(self, decision: Decision, views: list[NodeView]) -> None:
        """What must be so at every look."""
        before, after = self.progress, decision.progress
        verdicts = Counter(decision.verdicts.values())
        assert parse_progress(json.dumps(asdict(after))) == after
        assert set(decision.assignment.values()) <= {after.version, after.settled}
        news = [view for view in views if view.is_heard and view.runtime in (None, self.target.runtime)]
        under_way = sum(not view.is_ready for view in news)
        if decision.replace:
            assert after.state != "stopped"
            assert under_way + len(decision.replace) <= failure_limit(self.target, len(views))
            old = {view.name for view in views if view.is_heard and view.runtime not in (None, self.target.runtime)}
            assert set(decision.replace) <= old
        if not before.is_of(self.target):
            return
        if before.state == "stopped":
            assert after.state == "stopped"
        kept = {name for name, version in self.assigned.items() if version == after.version != after.settled}
        if after.state != "stopped":
            assert all(decision.assignment.get(name) == after.version for name in kept & {view.name for view in views})
        is_on = after.wave > before.wave or (after.state == "done" and before.state != "done")
        waves = wave_numbers(self.target.waves, views)
        if is_on and any(wave <= before.wave for wave in waves.values()):
            assert verdicts["confirmed"], "a wave opens only behind nodes that have it"
            assert not verdicts["pending"]
            here = [view for view in views if waves[view.name] == before.wave]
            assert before.state == "baking" or not any(view.is_heard for view in here)

    def happen(self) -> None:
        """Something, now and then."""
        if self.random.random() > 0.25 or not self.nodes:
            return
        node, dice = self.random.choice(self.nodes), self.random.random()
        kinds = ("away", "back", "back", "mute", "talk", "join", "leave", "label", "wish", "stop", "die")
        kind = self.random.choice(kinds)
        if kind == "away":
            node.is_heard = False
        elif kind in ("back", "talk"):
            for one in self.nodes:
                one.is_heard, one.is_mute = one.is_heard or dice < 0.5, one.is_mute and kind == "back"
        elif kind == "mute":
            node.is_mute = dice < 0.2
        elif kind == "join" and dice < 0.3:
            self.nodes.append(Node(f"n{self.clock:.0f}", dice < 0.05, self.target.runtime))
        elif kind == "leave" and dice < 0.3:
            self.nodes.remove(node)
        elif kind == "label":
            node.is_canary = not node.is_canary
        elif kind == "wish" and dice < 0.7:
            self.want(self.random.choice([1, 2, 3]), self.random.choice("ABC"))
        elif kind == "stop":
            self.stop = dice < 0.05
        elif kind == "die":
            self.memory = Memory()
            self.clock = max(0.0, self.clock + self.random.choice([0, 0, -5000, -100, 100, 5000]))

    def want(self, version: int, runtime: str) -> None:
        revision = self.target.revision + 1
        self.target, self.stop = replace(self.target, version=version, revision=revision, runtime=runtime), False


def play(part: int) -> Counter[str]:
    """A third of the fleets; how often what was seen."""
    seen: Counter[str] = Counter()
    for number in range(FLEETS // 3):
        world = World(random.Random(SEED + part * 1000 + number))
        for _ in range(LOOKS):
            world.happen()
            world.look()
        for node in world.nodes:
            node.is_heard, node.is_mute = True, False
        world.want(GOOD, "Z")
        for _ in range(600):
            world.look()
        if world.nodes:
            assert world.progress.state == "done", (number, world.progress)
            assert {(node.active, node.runtime) for node in world.nodes} == {(GOOD, "Z")}
            last = (world.progress, world.assigned)
            world.look()
            assert (world.progress, world.assigned) == last, "what has ended writes nothing more"
        seen += world.seen
    return seen


@pytest.mark.parametrize("part", range(3))
def test_whatever_happens_the_rules_hold_and_a_good_release_gets_out_in_the_end(part: int) -> None:
    seen = play(part)
    print(f"{FLEETS // 3} fleets: {dict(seen)} (seed {SEED})")
    assert min(seen[state] for state in ("rolling", "baking", "done", "stopped", "replaced")) > 20


@pytest.mark.parametrize(("guard", "without"), [("keeps", False), ("failure_limit", 99)])
def test_without_a_guard_the_rules_do_not_hold(guard: str, without: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, guard, lambda *_: without)
    with pytest.raises(AssertionError):
        assert [play(part) for part in range(3)]
