"""What an origin is asked when many node processes start together, and when it comes back after an outage.

python -m benchmarks.reconnect [--nodes 100]      about seven minutes on two cores; nothing else should run meanwhile

Real processes that follow the newest release, each with a state folder of its own; a start and an outage both end with
news, so each node has its metadata to check. tests/edge/test_offline.py holds the same promise (the peak is at most
twice the steady rate) on a clock that it turns. The nodes share this machine's cores: a check takes 0.6 s of CPU, and
spread over 20 polls that is 60 % of one core for 100 nodes, so the cores do little of the spreading.
"""

import argparse
import contextlib
import shutil
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random

from edge.node.origin import RETURN_POLLS
from edgedistill import signing
from tests.edge.conftest import NodeProcess, Publisher, new_publisher, node_arguments
from tests.edge.origin_server import BadLine, OriginServer

POLL_S = 5.0  # as the chart has it
STEADY_S, OUTAGE_S = 30.0, 15.0
CALM_S = (RETURN_POLLS + 4) * POLL_S


@contextlib.contextmanager
def fleet(publisher: Publisher, origin: str, count: int) -> Iterator[list[NodeProcess]]:
    """Nodes that follow the newest release and serve one already, started as fast as this machine can."""
    seed = publisher.folder / "seed"
    node = NodeProcess(node_arguments(publisher, seed)).start()
    node.wait(lambda status: status["state"] == "serving")
    node.kill(signal.SIGTERM)
    nodes = []
    for number in range(count):
        state = publisher.folder / f"state-{number}"
        shutil.copytree(seed, state)
        arguments = [*node_arguments(publisher, state), "--releases", origin, "--poll-s", str(POLL_S)]
        nodes.append(NodeProcess(arguments))
    try:
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(NodeProcess.start, nodes))
        yield nodes
    finally:
        for node in nodes:
            if node.process is not None:
                node.kill()


class Counts:
    """What an origin was asked, ten times a second."""

    def __init__(self, origin: OriginServer) -> None:
        self._origin, self._ends = origin, threading.Event()
        self._samples: list[tuple[float, int]] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def between(self, begin: float, end: float) -> float:
        """Requests a second between two moments (monotonic)."""
        counts = [count for at, count in self._samples if begin <= at <= end]
        return (counts[-1] - counts[0]) / (end - begin)

    def rates(self, begin: float, end: float, window_s: float) -> list[float]:
        """Requests a second in each window between two moments."""
        starts = [at for at, _ in self._samples if begin <= at <= end - window_s]
        return [self.between(at, at + window_s) for at in starts]

    def close(self) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(0.1):
            self._samples.append((time.monotonic(), self._origin.asked.total()))


def measure(publisher: Publisher, count: int) -> Iterator[tuple[str, str]]:
    """The rates, one a line."""
    publisher.publish(seed=1)
    with contextlib.ExitStack() as ends:
        origin = OriginServer(publisher.releases)
        line = BadLine(origin.server_address[1], Random(1))
        counts = Counts(origin)
        for one in (origin, line, counts):
            ends.callback(one.close)
        began = time.monotonic()
        with fleet(publisher, line.url, count):
            signing.refresh(publisher.store, publisher.keys)
            started = time.monotonic()
            time.sleep(CALM_S + STEADY_S)
            cut = time.monotonic()
            line.cut("reject")
            time.sleep(OUTAGE_S)
            signing.refresh(publisher.store, publisher.keys)
            back = time.monotonic()
            line.cut("open")
            time.sleep(CALM_S)
            end = time.monotonic()
    yield f"{count} nodes started within", f"{started - began:.0f} s"
    yield "steady, requests a second", f"{counts.between(cut - STEADY_S, cut):.1f}"
    for window_s in (1.0, POLL_S):
        steady = counts.rates(cut - STEADY_S, cut, window_s)
        yield f"worst {window_s:g} s in steady state (median)", f"{max(steady):.1f} ({statistics.median(steady):.1f})"
        yield f"worst {window_s:g} s since the start", f"{max(counts.rates(began, cut, window_s)):.1f}"
        yield f"worst {window_s:g} s since the outage", f"{max(counts.rates(back, end, window_s)):.1f}"
    checks = sum(number for path, number in origin.asked.items() if path.endswith("/2.root.json"))
    yield "checks of the metadata, 2 a node are meant", str(checks)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, default=100)
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: exit("benchmarks.reconnect: ended"))
    with tempfile.TemporaryDirectory() as folder:
        for told, value in measure(new_publisher(Path(folder)), options.nodes):
            print(f"{told:48} {value:>20}", flush=True)


if __name__ == "__main__":
    main()
