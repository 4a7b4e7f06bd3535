"""Many node processes, one origin, the real controller on a real API server; a tenth of the nodes away.

    EDGEDISTILL_PROVE=1 python -m tests.cluster.run -k many_nodes     whole: 10 and 100 nodes, a quarter of an hour

The nodes share the cores of one machine, which real ones do not: an update is 1.8 s of CPU, and on two cores the
updates of a wave of fifty stand in line for half a minute. So each node has one core, in turns, and an assignment
reaches it as late as a kubelet may bring it. Not shared: state folders, addresses, version files, the random pauses.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.bare_nodes import Cluster, start_nodes
from tests.cluster.testbed.images import REPOSITORY
from tests.cluster.testbed.testbed import Testbed
from tests.edge import proof
from tests.edge.conftest import NodeProcess, Publisher, new_publisher
from tests.edge.origin_server import BadLine, OriginServer

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(2400)]

SIZES = (10, 100) if proof.WHOLE else (20,)
SYNC_S = float(os.environ.get("EDGEDISTILL_SYNC_S", "20" if proof.WHOLE else "5"))  # a kubelet's own period is 60 s
POLL_S = 5.0  # of a node, as the chart has it
WAVES: list[dict[str, Any]] = [{"label": {"key": "edgedistill.dev/wave", "value": "canary"}}]
WAVES += [{"percent": share} for share in ((10, 50, 100) if proof.WHOLE else (50, 100))]
BAKE_S, LIMIT_S = 3, 900.0
Tell = Callable[[str, str], None]


@dataclass(frozen=True)
class Moment:
    """What stood in the assignment."""

    at: float  # seconds since the target changed
    wave: int
    state: str
    told: int  # nodes that were told the new version
    reason: str


@dataclass(frozen=True)
class Rolled:
    """What one rollout was like."""

    seconds: float
    moments: list[Moment]
    peak: float  # requests a second at the origin, in the worst 5 s
    peak_bytes: float
    fetches: int  # of the new release's weights
    return_s: float  # until the last node that had been away served the new version
    return_peak: float

    @property
    def told(self) -> str:
        waves = ", ".join(f"{m.at:.0f} s: {m.told}" for m in _first_of_each(self.moments))
        peaks = f"origin at most {self.peak:.1f} requests and {self.peak_bytes / 1e3:.1f} kB a second"
        back = f"back within {self.return_s:.0f} s at most {self.return_peak:.1f} a second"
        return f"{self.seconds:.0f} s (told at {waves}); {peaks}; {self.fetches} fetches; those away {back}"


def _first_of_each(moments: list[Moment]) -> list[Moment]:
    return [m for i, m in enumerate(moments) if m.told and (i == 0 or m.told != moments[i - 1].told)]


class Sampled:
    """An origin's counts, twice a second."""

    def __init__(self, origin: OriginServer) -> None:
        self._origin, self._stopping = origin, threading.Event()
        self.samples: list[tuple[float, int, int]] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def peak(self, since: float, *, window_s: float = 5.0) -> tuple[float, float]:
        """Requests and bytes a second in the worst window that begins after `since` (monotonic)."""
        worst, worst_bytes = 0.0, 0.0
        for at, asked, sent in self.samples:
            if at >= since:
                end = max((s for s in self.samples if s[0] <= at + window_s), key=lambda s: s[0])
                worst = max(worst, (end[1] - asked) / window_s)
                worst_bytes = max(worst_bytes, (end[2] - sent) / window_s)
        return worst, worst_bytes

    def close(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(0.5):
            self.samples.append((time.monotonic(), self._origin.asked.total(), self._origin.sent.total()))


@pytest.fixture(scope="module")
def publisher(tmp_path_factory: pytest.TempPathFactory) -> Publisher:
    """A repository with releases 1 and 2."""
    found = new_publisher(tmp_path_factory.mktemp("scale"))
    for seed in (1, 2):
        found.publish(seed=seed)
    return found


@pytest.fixture(scope="module")
def seed(publisher: Publisher) -> Path:
    """The state folder of a node that serves release 1 and has proven it."""
    state = publisher.folder / "seed"
    arguments = [*_releases(publisher, str(publisher.releases)), "--state", str(state), "--version", "1"]
    node = NodeProcess([*arguments, "--poll-s", "0.2", "--http-port", "0", "--grpc-port", "0"]).start()
    try:
        node.wait(lambda status: status["state"] == "serving")
    finally:
        node.kill(signal.SIGTERM)
    return state


def _releases(publisher: Publisher, origin: str) -> list[str]:
    return ["--releases", origin, "--root", str(publisher.root), "--name", "tiny"]


def _target(testbed: Testbed, publisher: Publisher, release: str, version: int) -> dict[str, Any]:
    """The ConfigMap as the chart renders it."""
    values = {
        "image": {"repository": "localhost/none", "tag": "1"},
        "release": {"name": "tiny", "version": version},
        "releases": {"url": "http://127.0.0.1:1"},
        "trust": {"root": publisher.root.read_text()},
        "rollout": {"waves": WAVES, "bakeSeconds": BAKE_S},
        "nodeSelector": {"edgedistill.dev/scale": release},
    }
    chart = str(REPOSITORY / "helm" / "student-edge")
    command = [str(testbed.folder / "bin" / "helm"), "template", release, chart, "--namespace", release, "-f", "-"]
    done = subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = [one for one in yaml.safe_load_all(done.stdout) if one and one["metadata"]["name"] == f"{release}-target"]
    assert len(found) == 1
    return {"metadata": {"name": f"{release}-target"}, "data": found[0]["data"]}


@contextmanager
def controller(release: str, log: Path) -> Iterator[None]:
    """The real process, on the API server of KUBECONFIG."""
    command = [sys.executable, "-m", "edge.rollout", "run", "--release", release, "--namespace", release]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--poll-s", "1", "--port", "0"], stdout=output, stderr=output)
        try:
            yield
            assert process.poll() is None, log.read_text()[-2000:]
        finally:
            process.kill()
            process.wait()


def _wait(what: Callable[[], bool], told: Callable[[], object], timeout_s: float = LIMIT_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not what():
        assert time.monotonic() < deadline, told()
        time.sleep(0.5)


def _follow(cluster: Cluster, version: int) -> tuple[float, list[Moment]]:
    """Watch the assignment until the rollout has ended; the seconds it took, and each state that was seen."""
    began, moments = time.monotonic(), list[Moment]()

    def is_over() -> bool:
        found = cluster.assignment()
        note = json.loads(found.metadata.annotations["edgedistill.dev/rollout"]) if found else {"version": 0}
        if note["version"] != version:
            return False
        told = sum(int(one) == version for one in (found.data or {}).values())
        moment = Moment(time.monotonic() - began, note["wave"], note["state"], told, note["reason"])
        if not moments or (moment.wave, moment.state, moment.told) != (moments[-1].wave, moments[-1].state, told):
            moments.append(moment)
        return moment.state in ("done", "stopped")

    _wait(is_over, lambda: (moments[-3:], cluster.failures[-3:]))
    return time.monotonic() - began, moments


def roll(testbed: Testbed, publisher: Publisher, seed: Path, folder: Path, count: int) -> Rolled:
    """Release 1 on every node, a tenth of them go away, release 2 goes out, they come back."""
    release, away = f"scale-{count}", count // 10
    generator = proof.generator(f"scale-{count}")
    with ExitStack() as ends:
        origin = OriginServer(publisher.releases)
        ends.callback(origin.close)
        line = BadLine(origin.server_address[1], generator)
        ends.callback(line.close)
        sampled = Sampled(origin)
        ends.callback(sampled.close)

        def arguments(number: int) -> list[str]:
            url = line.url if number >= count - away else origin.url
            return [*_releases(publisher, url), "--poll-s", str(POLL_S)]

        cluster = ends.enter_context(Cluster(release, SYNC_S, generator))
        nodes = start_nodes(count, folder, arguments, seed=seed, version=1)
        cluster.nodes += nodes
        target = _target(testbed, publisher, release, 1)
        runtime = json.loads(target["data"]["target.json"]).get("runtime", "")
        cluster.join(canaries=1, runtime=runtime)
        cluster.core.create_namespaced_config_map(release, target)
        ends.enter_context(controller(release, folder / "controller.log"))
        assert _follow(cluster, 1)[1][-1].state == "done"
        gone = nodes[count - away :]
        line.cut("reject")
        for node in gone:
            node.is_away = True
        _wait(lambda: not cluster.heard() & {node.name for node in gone}, cluster.heard, 120)
        before, began = origin.asked.copy(), time.monotonic()
        cluster.core.replace_namespaced_config_map(
            f"{release}-target", release, _target(testbed, publisher, release, 2)
        )
        seconds, moments = _follow(cluster, 2)
        assert moments[-1].state == "done", moments[-1].reason
        assert {node.active for node in nodes[: count - away]} == {2}
        assert {node.active for node in gone} == {1}, "away, and serving"
        peak, peak_bytes = sampled.peak(began)
        back = time.monotonic()
        line.cut("open")
        for node in gone:
            node.is_away = False
        _wait(lambda: {node.active for node in gone} == {2}, lambda: [node.active for node in gone])
        return_s = time.monotonic() - back
        _wait(lambda: cluster.heard() == {node.name for node in nodes}, cluster.heard, 60)
        fetched = origin.asked - before
        weights = [number for path, number in fetched.items() if path.endswith("model.bin")]
        assert not cluster.failures, cluster.failures
        return Rolled(seconds, moments, peak, peak_bytes, sum(weights), return_s, sampled.peak(back)[0])


def test_many_nodes_go_wave_by_wave_and_those_away_catch_up(
    testbed: Testbed, publisher: Publisher, seed: Path, tmp_path: Path, tell: Tell
) -> None:
    seen = {}
    for count in SIZES:
        seen[count] = rolled = roll(testbed, publisher, seed, tmp_path / str(count), count)
        tell("P7", f"{count} node processes, {count // 10} of them away: {rolled.told}")
        shares = [count * int(wave["percent"]) // 100 for wave in WAVES[1:]]
        assert [moment.told for moment in _first_of_each(rolled.moments)] == sorted({1, *shares})
        assert rolled.fetches == count, "each node fetches a release once, whatever happens around it"
        # Eleven requests an update; the widest wave's are spread over the kubelets' period and the nodes' poll.
        widest = max(b - a for a, b in zip([1, *shares], shares, strict=False))
        meant = 11 * widest / (SYNC_S + POLL_S)
        assert rolled.peak <= 2 * meant + 11, f"{rolled.peak:.1f} a second, {meant:.1f} are meant"
    if proof.WHOLE:
        ratio = seen[100].seconds / seen[10].seconds
        tell("P7", f"time for 100 nodes over 10: {ratio:.2f}")
        assert ratio <= 3
