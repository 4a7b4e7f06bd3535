"""P8: load through swaps and forced rollbacks: no failed request, each answer of a release that was active."""

import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from benchmarks.clients import HttpClient
from edgedistill.inference import Student
from tests.edge import proof
from tests.edge.conftest import Publisher, StartNode, pictures, tiny_model

pytestmark = pytest.mark.proof

SWAPS = proof.size(10, 100)  # and as many back again


class _Load:
    """Two clients without a pause; what each answer said."""

    def __init__(self, address: str) -> None:
        self.answers: list[tuple[float, str, bytes]] = []  # time, version, the logits' bytes
        self.failures: list[str] = []
        self._address, self._stop = address, threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(2)]

    def __enter__(self) -> "_Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _ask(self) -> None:
        client = HttpClient(self._address, "tiny", pictures(1))
        while not self._stop.wait(0.005):
            try:
                status = client.ask()
            except OSError as error:
                self.failures.append(repr(error))
                break
            if status == 200:
                self.answers.append((time.monotonic(), client.release(), client.body[-16:]))
            else:
                self.failures.append(f"status {status}: {client.body[:100]!r}")
        client.close()

    @property
    def longest_gap_ms(self) -> float:
        """Between one answer and the next, of any client."""
        return float(np.diff(sorted(at for at, _, _ in self.answers)).max()) * 1e3


def test_swaps_and_rollbacks_under_load(
    publisher: Publisher, start_node: StartNode, tell: Callable[[str, str], None]
) -> None:
    wanted = publisher.folder / "wanted"
    for seed in (1, 2):
        publisher.publish(seed=seed)
    wanted.write_text("1\n")
    node = start_node("--version-file", str(wanted))
    node.wait_version(1)
    with _Load(node.http) as load:
        for _ in range(SWAPS):
            for version in (2, 1):  # forward, and the operator's way back
                wanted.write_text(f"{version}\n")
                node.wait_version(version)
    assert not load.failures
    assert {version for _, version, _ in load.answers} == {"1", "2"}
    assert not _mixed(load)
    turns = sum(a != b for (_, a, _), (_, b, _) in zip(load.answers, load.answers[1:], strict=False))
    assert turns >= 2 * SWAPS - 1
    assert load.longest_gap_ms < 5000
    gap = f"longest gap {load.longest_gap_ms:.0f} ms"
    tell("P8", f"{SWAPS} swaps and {SWAPS} rollbacks under load, {len(load.answers)} answers, 0 failed, 0 mixed, {gap}")


def _mixed(load: _Load) -> int:
    """Answers whose logits are not those of the release that they name."""
    expected = {str(seed): Student(tiny_model(seed)).logits(pictures(1))[0] for seed in (1, 2)}
    got = ((version, np.frombuffer(raw, np.float32)) for _, version, raw in load.answers)
    return sum(not np.allclose(logits, expected[version], atol=1e-4) for version, logits in got)


def test_a_swap_that_changes_the_engine_under_a_request_is_found_out(
    publisher: Publisher, start_node: StartNode
) -> None:
    """Negative control: requests are answered by whatever engine is active when their turn comes."""
    wanted = publisher.folder / "wanted"
    for seed in (1, 2):
        publisher.publish(seed=seed)
    wanted.write_text("1\n")
    node = start_node("--version-file", str(wanted), module="tests.edge.drivers.swaps_under_requests")
    node.wait_version(1)
    with _Load(node.http) as load:
        wanted.write_text("2\n")
        node.wait_version(2)
        time.sleep(0.3)
    assert _mixed(load)


def test_a_swap_that_leaves_a_gap_is_found_out(publisher: Publisher, start_node: StartNode) -> None:
    """Negative control: the old engine goes before the new one is there."""
    wanted = publisher.folder / "wanted"
    for seed in (1, 2):
        publisher.publish(seed=seed)
    wanted.write_text("1\n")
    node = start_node("--version-file", str(wanted), module="tests.edge.drivers.swaps_with_a_gap")
    node.wait_version(1)
    with _Load(node.http) as load:
        wanted.write_text("2\n")
        node.wait_version(2)
    assert any("status 503" in failure for failure in load.failures)
