"""Students of real pipeline runs, moved onto real kubelets by helm and the rollout controller, under constant load.

The tests of this file are one story and run in order.
"""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Callable

import numpy as np
import pytest

from edgedistill.bundle import MANIFEST, Manifest
from tests.cluster.fleet import ONE_WAVE, PROBATION_S, Fleet
from tests.cluster.load import Load, ask
from tests.cluster.origin import Origin, Press, Releases
from tests.cluster.testbed.network import NODES

pytestmark = pytest.mark.cluster
Tell = Callable[[str, str], None]
NAMES = [node.name for node in NODES]
OTHERS = ["edge-2", "edge-3"]


class Watch:
    """Notes when each node first served a release. A context manager."""

    def __init__(self, fleet: Fleet, version: int) -> None:
        self._addresses, self._fleet, self._version = fleet.addresses(), fleet, version
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.seen: dict[str, float] = {}  # node -> monotonic seconds

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stop.wait(0.3):
            for node, address in self._addresses.items():
                if node not in self.seen and self._fleet.serves_at(address) == self._version:
                    self.seen[node] = time.monotonic()


def test_install_brings_the_first_student_to_every_node(fleet: Fleet, releases: Releases) -> None:
    assert fleet.active() == dict.fromkeys(NAMES, 1)
    files = releases.files(1)
    manifest = Manifest.parse(files[MANIFEST])
    for address in fleet.addresses().values():
        for golden in manifest.golden:
            version, logits = ask(address, releases.name, files[golden.file])
            assert version == 1
            np.testing.assert_allclose(logits, golden.logits, atol=manifest.golden_tolerance)


def test_two_upgrades_lose_no_request_and_restart_no_pod(
    fleet: Fleet, origin: Origin, press: Press, releases: Releases, tell: Tell
) -> None:
    """The first one in two waves; the second one in one wave, by a helm that waits itself."""
    before = fleet.identity()
    with Load(fleet.addresses(), releases.name, press.picture()) as load:
        for version, wait in ((2, False), (3, True)):
            origin.count_from_now()
            begun = time.monotonic()
            with Watch(fleet, version) as watch:
                fleet.upgrade(version, {"rollout": ONE_WAVE["rollout"] | {"wait": True}} if wait else {})
                if not wait:
                    fleet.ended("done")
                    waited = fleet.cli("wait", "--timeout", "10")
                    assert waited.returncode == 0, waited.stderr
                took_s = time.monotonic() - begun
            assert fleet.active() == dict.fromkeys(NAMES, version)
            if not wait:
                others = min(watch.seen[node] for node in OTHERS)
                assert watch.seen["edge-1"] + PROBATION_S < others, "the canary proves it first"
            after_s = ", ".join(f"{node} {watch.seen[node] - begun:.0f} s" for node in NAMES)
            sent = origin.sent
            size = ", ".join(f"{node} {sent[node] / 1000:.0f} kB" for node in NAMES)
            tell(
                f"release {version - 1} to {version}", f"out in {took_s:.0f} s; served after {after_s}; fetched: {size}"
            )
    load.check()
    for node, seen in load.seen.items():
        assert sorted(set(seen.versions)) == [1, 2, 3], node
        assert seen.versions == sorted(seen.versions), f"{node} went back"
    assert fleet.identity() == before, "a pod was restarted"
    gap_ms = 1000 * load.longest_gap_s
    tell(
        "load over two rollouts", f"{load.answered} requests, 0 failed; longest time without an answer {gap_ms:.0f} ms"
    )


def test_the_fleet_as_a_person_sees_it(fleet: Fleet) -> None:
    document = fleet.document()
    assert document["target"]["version"] == 3
    assert document["rollout"]["state"] == "done"
    assert {node["name"]: (node["active"], node["state"]) for node in document["nodes"]} == dict.fromkeys(
        NAMES, (3, "serving")
    )
    table = fleet.cli("status").stdout
    assert all(node in table for node in NAMES)
    assert "release 3: done" in table
    opened = fleet.events("WaveOpened")
    assert any("release 2, wave 1" in message for message in opened)
    assert any("release 2, wave 2" in message for message in opened)
    assert any("release 3" in message for message in fleet.events("RolloutDone"))


@pytest.mark.case("superseded")
@pytest.mark.case("rolled back")
def test_a_newer_target_supersedes_and_helm_rollback_is_a_target_too(fleet: Fleet, press: Press) -> None:
    settled = fleet.rollout()["version"]
    left, newer = press.again(), press.again()
    fleet.upgrade(left)
    fleet.until(lambda: fleet.said("edge-1").get("desired") == {"version": left}, "the canary is told")
    fleet.upgrade(newer)
    fleet.until(lambda: fleet.said("edge-1").get("desired") == {"version": newer}, "the canary is told the newer one")
    assert {fleet.assigned()[node] for node in OTHERS} == {settled}, "an unfinished release is nobody's way back"
    done = fleet.call("rollback")
    assert done.returncode == 0, done.stderr
    fleet.until(lambda: fleet.rollout().get("version") == left, "helm rollback asks for the release before")
    assert json.loads(fleet.call("get", "-o", "json").stdout)["release"]["version"] == left


@pytest.mark.case("stopped by the operator")
def test_the_operator_stops_a_rollout(fleet: Fleet, press: Press) -> None:
    settled = fleet.rollout()["settled"]
    # A shell that starts the tests in its background has them ignore Ctrl-C, and what they start.
    command = ["env", "--default-signal=INT", *fleet.cli_command("status", "--watch")]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    stopped = fleet.cli("stop")
    assert stopped.returncode == 0, stopped.stderr
    assert "the operator stopped it" in fleet.ended("stopped", 30)
    assert fleet.assigned() == dict.fromkeys(NAMES, settled)
    fleet.until(lambda: set(fleet.active().values()) == {settled}, "every node serves what the fleet last finished")
    time.sleep(5)  # two looks of the watch
    watch.send_signal(signal.SIGINT)
    told = watch.communicate()[0]
    assert "stopped: the operator stopped it" in told
    assert all(f"{node}:" in told for node in NAMES)
    again = fleet.cli("stop")
    assert again.returncode != 0
    assert "to leave it, upgrade the chart" in again.stderr
