"""P7: without a network a node serves what it served; when the network comes back, nodes do not come all at once."""

import heapq
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from edge.node import origin as origin_module
from edge.node.catalog import Unreachable
from edge.node.origin import Origin
from edge.node.trust import Repository
from edgedistill import signing
from tests.edge import proof
from tests.edge.conftest import Publisher, StartNode
from tests.edge.origin_server import BadLine, OriginServer
from tests.edge.whole import ask

pytestmark = pytest.mark.proof

NODES, POLL_S = 100, 10.0
CALM_S = int((origin_module.RETURN_POLLS + 4) * POLL_S)  # the checks after a start or an outage are over
Tell = Callable[[str, str], None]


@pytest.mark.parametrize("mode", ["reject", "drop"])
def test_serves_again_without_a_network(mode: str, publisher: Publisher, start_node: StartNode, tell: Tell) -> None:
    publisher.publish(seed=1)
    root = publisher.folder / "root.json"
    shutil.copy(publisher.root, root)
    origin = OriginServer(publisher.releases)
    line = BadLine(origin.server_address[1], proof.generator("P7"))
    node = start_node("--releases", line.url, "--root", str(root))
    node.wait_version(1)
    node.kill()
    line.cut(mode)
    begun = time.monotonic()
    node = start_node("--releases", line.url, "--root", str(root))
    assert ask(node.http)[0] == 1
    took_s = time.monotonic() - begun
    assert took_s < 15, "seconds, on any machine"
    assert ask(node.http)[0] == 1
    tell("P7", f"origin cut off ({mode}): serving {took_s:.1f} s after the start")
    if mode == "reject":
        status = node.wait(lambda s: s["last_event"].get("reason") == "unreachable")
        assert status["active"]["version"] == 1
        assert status["last_event"]["message"] == "the origin does not answer: Connection refused"
        node.kill()
        spoiled = start_node("--releases", line.url, "--root", str(root), module="tests.edge.drivers.refreshes_at_boot")
        time.sleep(1)
        assert spoiled.status()["active"] is None, "negative control: a boot that needs the origin"
    line.close()
    origin.close()


def test_a_refusal_is_never_told_of_another_release(publisher: Publisher, start_node: StartNode) -> None:
    """The rollout reads `desired` and `refused` together: a reason that is left over would stop the next release."""
    publisher.publish(seed=1)
    publisher.publish(seed=2)
    root, wanted = publisher.folder / "root.json", publisher.folder / "wanted"
    shutil.copy(publisher.root, root)
    wanted.write_text("99")
    origin = OriginServer(publisher.releases)
    line = BadLine(origin.server_address[1], proof.generator("P7"))
    node = start_node("--releases", line.url, "--root", str(root), "--version-file", str(wanted))
    node.wait(lambda s: s["refused"] == "not_listed")
    line.cut("drop")  # the node now waits for an answer, which on a fast line is over in a second
    wanted.write_text("2")
    status = node.wait(lambda s: s["desired"] == {"version": 2})
    assert status["refused"] == ""
    assert "99" not in status["reason"]
    line.close()
    origin.close()


@dataclass
class Fleet:
    """The polling and checking code of many nodes in one process, on a clock that this test turns, at a real server."""

    url: str
    root: bytes
    folder: Path
    origins: list[Origin]
    clock: list[float]  # one number, seconds
    queue: list[tuple[float, int]]

    @staticmethod
    def start(url: str, publisher: Publisher, uniform: Callable[[float, float], float]) -> "Fleet":
        """All nodes boot at second 0, as after a power cut; each has a release, and the metadata it came with."""
        clock = [0.0]
        origins = [Origin(url, POLL_S, clock=lambda: clock[0], uniform=uniform) for _ in range(NODES)]
        queue = [(origin.first_pause_s(), number) for number, origin in enumerate(origins)]
        heapq.heapify(queue)
        fleet = Fleet(url, publisher.root.read_bytes(), publisher.folder / "nodes", origins, clock, queue)
        fleet.check(0)
        for number in range(1, NODES):
            shutil.copytree(fleet.folder / "0", fleet.folder / str(number))
        return fleet

    def run(self, until_s: float, server: OriginServer) -> Counter[int]:
        """Requests that the server counted in each second; the nodes' rounds do them."""
        counted: Counter[int] = Counter()
        while self.queue[0][0] < until_s:
            self.clock[0], number = heapq.heappop(self.queue)
            origin, before = self.origins[number], server.asked.total()
            try:
                if origin.has_news(is_asked=False):
                    self.check(number)
                    origin.answered()
            except Unreachable:
                origin.failed()
            counted[int(self.clock[0])] += server.asked.total() - before
            heapq.heappush(self.queue, (self.clock[0] + origin.pause_s(), number))
        return counted

    def check(self, number: int) -> None:
        """What the child of a node does when its metadata is due: python-tuf over HTTP, from the trusted copy."""
        trusted, scratch = self.folder / str(number), self.folder / f"{number}-scratch"
        known = trusted if trusted.exists() else None
        Repository(self.url, self.root, scratch, trusted=known, ca=None).refresh("tiny", {})
        shutil.rmtree(trusted, ignore_errors=True)
        scratch.rename(trusted)


def _peak_and_steady(
    publisher: Publisher, uniform: Callable[[float, float], float], *, outage_s: int, calm_s: int
) -> tuple[float, float, int]:
    """Requests a second: the peak at the start and after an outage, the steady mean, and all that were counted.

    `calm_s`: after so many seconds what the start or the outage brought about is over.
    """
    publisher.publish(seed=1)
    server = OriginServer(publisher.releases)
    fleet = Fleet.start(server.url, publisher, uniform)
    signing.refresh(publisher.store, publisher.keys)  # so there is news at the start
    cut = calm_s + 40
    before = fleet.run(cut, server)
    steady = sum(before[second] for second in range(calm_s, cut)) / 40
    server.close()
    back = cut + outage_s
    assert not fleet.run(back, server).total(), "an outage"
    signing.refresh(publisher.store, publisher.keys)  # and after the outage
    server = OriginServer(publisher.releases, server.server_address[1])
    after = fleet.run(back + calm_s, server)
    server.close()
    # Windows of one poll: a check is six requests in one moment, and chance alone makes twenty a second of the ten.
    window, spans = int(POLL_S), ((before, 0), (after, back))
    rates = [
        sum(counted[first + second + i] for i in range(window)) / window
        for counted, first in spans
        for second in range(calm_s - window)
    ]
    return max(rates), steady, before.total() + after.total()


@pytest.mark.parametrize("outage_s", [15, 120] if proof.WHOLE else [15])
def test_a_hundred_nodes_do_not_come_back_at_once(outage_s: int, publisher: Publisher, tell: Tell) -> None:
    peak, steady, counted = _peak_and_steady(publisher, proof.generator("P7").uniform, outage_s=outage_s, calm_s=CALM_S)
    told = f"{steady:.1f} a second steady, at most {peak:.1f} at the start and after {outage_s} s without the origin"
    assert peak <= 2 * steady, told
    tell("P7", f"{NODES} nodes, {counted} requests, those of the checks counted: {told}")


def test_without_jitter_they_do(publisher: Publisher) -> None:
    """Negative control."""
    peak, steady, _ = _peak_and_steady(publisher, lambda low, high: high, outage_s=60, calm_s=CALM_S)
    assert peak > 2 * steady


def test_with_checks_at_once_they_do(publisher: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    """Negative control: the questions are spread, the checks that they lead to are not."""
    monkeypatch.setattr(origin_module, "RETURN_POLLS", 0.0)
    peak, steady, _ = _peak_and_steady(publisher, proof.generator("P7").uniform, outage_s=15, calm_s=30)
    assert peak > 2 * steady
