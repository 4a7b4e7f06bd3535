"""P7: without a network a node serves what it served; when the network comes back, nodes do not come all at once."""

import heapq
import shutil
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from edge.node.catalog import Unreachable
from edge.node.origin import Origin
from tests.edge import proof
from tests.edge.conftest import Publisher, StartNode
from tests.edge.origin_server import BadLine, OriginServer
from tests.edge.whole import ask

pytestmark = pytest.mark.proof

NODES, POLL_S = 100, 10.0
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
    """The polling code of many nodes in one process, on a clock that this test turns, against a real HTTP server."""

    origins: list[Origin]
    clock: list[float]  # one number, seconds
    queue: list[tuple[float, int]]

    @staticmethod
    def start(url: str, uniform: Callable[[float, float], float]) -> "Fleet":
        """All nodes boot at second 0, as after a power cut."""
        clock = [0.0]
        origins = [Origin(url, POLL_S, clock=lambda: clock[0], uniform=uniform) for _ in range(NODES)]
        queue = [(origin.first_pause_s(), number) for number, origin in enumerate(origins)]
        heapq.heapify(queue)
        return Fleet(origins, clock, queue)

    def run(self, until_s: float, server: OriginServer) -> Counter[int]:
        """Requests that the server counted in each second; the nodes' rounds do them."""
        counted: Counter[int] = Counter()
        while self.queue[0][0] < until_s:
            self.clock[0], number = heapq.heappop(self.queue)
            origin, before = self.origins[number], server.asked.total()
            try:
                if origin.has_news(is_asked=False):
                    origin.answered()
            except Unreachable:
                origin.failed()
            counted[int(self.clock[0])] += server.asked.total() - before
            heapq.heappush(self.queue, (self.clock[0] + origin.pause_s(), number))
        return counted


def _peak_and_steady(publisher: Publisher, uniform: Callable[[float, float], float]) -> tuple[float, float, int]:
    """Requests a second: the peak at the start and after an outage, the steady mean, and all that were counted."""
    server = OriginServer(publisher.releases)
    fleet = Fleet.start(server.url, uniform)
    before = fleet.run(60.0, server)
    steady = sum(before[second] for second in range(20, 60)) / 40
    server.close()
    assert not fleet.run(180.0, server).total(), "an outage"
    server = OriginServer(publisher.releases, server.server_address[1])
    after = fleet.run(360.0, server)
    server.close()
    # Windows of 5 s: in one second 10 requests are meant, and chance alone makes 20 of them now and then.
    rates = [sum(before[second + i] for i in range(5)) / 5 for second in range(20)]
    rates += [sum(after[second + i] for i in range(5)) / 5 for second in range(180, 355)]
    return max(rates), steady, before.total() + after.total()


def test_a_hundred_nodes_do_not_come_back_at_once(publisher: Publisher, tell: Tell) -> None:
    publisher.publish(seed=1)
    peak, steady, counted = _peak_and_steady(publisher, proof.generator("P7").uniform)
    assert peak <= 2 * steady
    tell("P7", f"{NODES} nodes, {counted} requests: {steady:.1f} a second steady, at most {peak:.1f} after an outage")


def test_without_jitter_they_do(publisher: Publisher) -> None:
    """Negative control."""
    publisher.publish(seed=1)
    peak, steady, _ = _peak_and_steady(publisher, lambda low, high: high)
    assert peak > 2 * steady
