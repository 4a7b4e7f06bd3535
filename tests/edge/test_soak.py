"""P13: swaps, refused releases, cuts of the origin and bad clients for a long time: nothing grows."""

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.edge import proof
from tests.edge.conftest import Publisher, StartNode
from tests.edge.soak import Load, Sample, Soak, growth, leaks
from tests.edge.whole import Signed

pytestmark = [pytest.mark.proof, pytest.mark.timeout(proof.size(600, 3600))]

CYCLES = 8  # at least
KEPT = 2  # the active and the previous release
SMALL_BYTES = 64 << 10  # pointer, quarantine


@pytest.fixture
def soak(publisher: Publisher, start_node: StartNode, tmp_path: Path) -> Callable[..., Soak]:
    """A node that serves release 1 of 3."""

    def start(module: str = "edge.node") -> Soak:
        good = tuple(Signed.of(publisher, 3).digests)
        wanted = tmp_path / "wanted"
        wanted.write_text("1\n")
        node = start_node("--version-file", str(wanted), module=module)
        node.wait_version(1)
        return Soak(node, publisher, tmp_path / "state", wanted, proof.generator("P13"), good)

    return start


def test_nothing_grows(soak: Callable[..., Soak], tell: Callable[[str, str], None]) -> None:
    busy, began = soak(), time.monotonic()
    with Load(busy.node.http).running() as load:
        while len(busy.samples) < CYCLES or time.monotonic() - began < proof.size(40, 1800):
            busy.cycle()
    assert load.failed == []
    found = growth(busy.samples)
    assert leaks(busy.samples) == set(), (found, busy.samples)
    most = (KEPT + 1) * _one_version(busy) + SMALL_BYTES
    assert busy.most_bytes <= most
    what = ", ".join(f"{count} {name}" for name, count in busy.counts.items())
    tell(
        "P13",
        f"{time.monotonic() - began:.0f} s, {len(busy.samples)} cycles ({what}), {load.answered} answers, 0 failed; a "
        f"cycle: {found['resident_kb']:+.0f} kB of {busy.samples[-1].resident_kb / 1024:.0f} MB, "
        f"{found['descriptors']:+.1f} descriptors, {found['threads']:+.1f} threads; disk at most "
        f"{busy.most_bytes / most:.2f} of its bound",
    )


def _one_version(soak: Soak) -> int:
    """Bytes of the largest bundle, and of the metadata, which a node keeps twice."""
    bundles = [
        sum(path.stat().st_size for path in folder.rglob("*.*")) for folder in soak.publisher.folder.glob("bundle-*")
    ]
    kept = max((soak.state / "metadata").iterdir(), key=lambda path: path.stat().st_mtime)
    return max(bundles) + 2 * sum(path.lstat().st_size for path in kept.rglob("*.json"))


def test_a_swap_that_leaks_is_found_out(soak: Callable[..., Soak]) -> None:
    """Negative control."""
    leaking = soak("tests.edge.drivers.leaky")
    for _ in range(6):
        leaking.cycle(with_faults=False)
    assert leaks(leaking.samples) == {"resident_kb", "descriptors", "threads"}, growth(leaking.samples)


def test_a_few_jumps_are_no_leak() -> None:
    flat = [Sample(100_000 + 5_000 * (n == 9), 20 + (n == 9), 10) for n in range(12)]
    assert leaks(flat) == set()
