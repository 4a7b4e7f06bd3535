"""P1: at every instant a node serves exactly one complete signed release, whenever it is killed."""

import json
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.edge import proof
from tests.edge.conftest import NodeProcess, Publisher, StartNode
from tests.edge.whole import Signed, ask

pytestmark = pytest.mark.proof

POINTS = (
    *("before_fetch", "fetched", "tried", "releases_synced", "releases_renamed", "kept"),
    *("metadata_synced", "metadata_renamed", "before_flip"),
    *("pointer_written", "pointer_synced", "pointer_renamed", "flipped"),
)
AFTER_THE_FLIP = ("pointer_renamed", "flipped")
VERSIONS = 3  # in a circle: the next one is never the previous one, which would still be on disk


@dataclass
class Killed:
    """A node that is killed again and again on its way to the next release, and checked each time it is back."""

    start_node: StartNode
    state: Path
    wanted: Path
    signed: Signed
    counts: dict[str, int] = field(default_factory=lambda: {"old": 0, "new": 0})
    starts_s: list[float] = field(default_factory=list)

    def start(self, *, point: str = "", module: str = "edge.node") -> NodeProcess:
        """Start it with nothing to do; it must answer as the release that its pointer names."""
        self.wanted.unlink(missing_ok=True)
        begun = time.monotonic()
        environment = {"EDGEDISTILL_FAILPOINT": point}
        node = self.start_node("--version-file", str(self.wanted), environment=environment, module=module)
        version, logits = ask(node.http)
        self.starts_s.append(time.monotonic() - begun)
        assert version == self.active()
        assert self.signed.answers_as(version, logits)
        assert not node.status()["quarantined"]
        return node

    def active(self) -> int:
        return int(json.loads((self.state / "pointer.json").read_bytes())["active"]["version"])

    def update(self) -> tuple[int, int]:
        """Ask for the next release. Gives the old and the new version."""
        old = self.active()
        new = old % VERSIONS + 1
        self.wanted.write_text(f"{new}\n")
        return old, new

    def check(self, old: int, new: int) -> list[str]:
        """What is wrong on the disk of a node that was killed between two releases; it is forgiven its early end."""
        found = self.signed.violations(self.state, {old, new})
        self.counts["new" if self.active() == new else "old"] += 1
        path = self.state / "pointer.json"
        path.write_text(json.dumps(json.loads(path.read_bytes()) | {"probation": False, "unfinished_starts": 0}))
        return found


@pytest.fixture
def killed(publisher: Publisher, start_node: StartNode, tmp_path: Path) -> Killed:
    """Release 1 is active and has ended its probation; 2 and 3 can be had."""
    signed = Signed.of(publisher, VERSIONS)
    node = start_node("--version", "1")
    node.wait_version(1)
    node.kill()
    killed = Killed(start_node, tmp_path / "state", tmp_path / "wanted", signed)
    assert not killed.check(0, 1)
    killed.counts.update(old=0, new=0)
    return killed


def test_killed_at_each_step_and_at_random_moments_it_serves_old_or_new(
    killed: Killed, tell: Callable[[str, str], None]
) -> None:
    for point in POINTS:
        node = killed.start(point=point)
        old, new = killed.update()
        assert node.process is not None
        assert node.process.wait(60) == -signal.SIGKILL, point
        assert killed.active() == (new if point in AFTER_THE_FLIP else old), point
        assert not killed.check(old, new), point
    node = killed.start()
    begun = time.monotonic()
    node.wait_version(killed.update()[1])
    undisturbed_s = time.monotonic() - begun
    node.kill()
    moments = proof.generator("P1")
    for _ in range(proof.size(27, 200)):
        node = killed.start()
        old, new = killed.update()
        time.sleep(moments.uniform(0, 1.3 * undisturbed_s))
        node.kill()
        assert not killed.check(old, new)
    killed.start().kill()
    counts, starts = killed.counts, sorted(killed.starts_s)
    assert counts["old"] >= len(POINTS) - 2
    assert counts["new"] >= 2
    assert starts[-1] < 30, "seconds, on any machine"
    tell(
        "P1",
        f"{sum(counts.values())} kills at {len(POINTS)} steps and at random moments: {counts['old']} served the old "
        f"release, {counts['new']} the new one, 0 neither; restart to first answer p50 "
        f"{starts[len(starts) // 2]:.1f} s, p99 {starts[int(0.99 * len(starts))]:.1f} s",
    )


def test_a_pointer_that_moves_too_early_is_found_out_by_the_same_check(killed: Killed) -> None:
    """Negative control."""
    node = killed.start(point="releases_synced", module="tests.edge.drivers.flips_early")
    old, new = killed.update()
    assert node.process is not None
    assert node.process.wait(60) == -signal.SIGKILL
    assert killed.check(old, new)[0].startswith(f"release {new}: ")


def test_serves_again_with_no_origin(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    node = start_node()
    digest = node.wait_version(1)["active"]["digest"]
    root = publisher.folder / "root.json"
    shutil.copy(publisher.root, root)
    node.kill()
    shutil.rmtree(publisher.releases)
    offline = start_node("--root", str(root))
    assert offline.wait_version(1)["active"]["digest"] == digest


def test_three_starts_that_die_return_to_the_previous_release(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    start = start_node()
    start.wait_version(1)
    publisher.publish(seed=2)
    start.wait_version(2)
    start.kill()
    for _ in range(2):
        again = start_node("--version", "2")
        again.wait_version(2)
        again.kill()
    status = start_node("--version", "2").wait_version(1)
    assert status["quarantined"][-1]["reason"] == "died"
