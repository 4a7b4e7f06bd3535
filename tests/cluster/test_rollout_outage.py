"""What happens to the rollout when its own machinery dies: the controller, the API server, helm's client."""

import os
import random
import signal
import time
from collections.abc import Callable

import pytest

from tests.cluster.fleet import ONE_WAVE, Fleet
from tests.cluster.load import Load
from tests.cluster.origin import Press, Releases
from tests.cluster.testbed.faults import no_api_server
from tests.cluster.testbed.network import NODES
from tests.cluster.testbed.testbed import Testbed
from tests.edge.proof import SEED, generator

pytestmark = pytest.mark.cluster
Tell = Callable[[str, str], None]
NAMES = [node.name for node in NODES]
KILLS = 10


def _kill_controller(fleet: Fleet, moments: random.Random) -> str:
    """SIGKILL to the process, or the pod deleted without grace."""
    if moments.random() < 0.5:
        try:
            os.kill(fleet.process(next(iter(fleet.pods("controller").values())), "edge.rollout"), signal.SIGKILL)
            return "process"
        except (AssertionError, StopIteration, ProcessLookupError):
            pass  # it is just being started
    selector = f"app.kubernetes.io/instance={fleet.name},app.kubernetes.io/component=controller"
    fleet.kubectl("delete", "pods", "-l", selector, "--grace-period=0", "--force", "--wait=false")
    return "pod"


@pytest.mark.case("controller dead")
@pytest.mark.case("API server down")
def test_the_controller_is_killed_again_and_again_and_the_api_server_goes_for_a_while(
    testbed: Testbed, fleet: Fleet, press: Press, releases: Releases, tell: Tell
) -> None:
    version, moments = press.again(), generator("controller")
    before, kills = fleet.identity(), []
    with Load(fleet.addresses(), releases.name, press.picture()) as load:
        fleet.upgrade(version)
        while len(kills) < KILLS:
            time.sleep(moments.uniform(0, 5))
            kills.append(_kill_controller(fleet, moments))
        assert fleet.rollout().get("state") != "done", "all of it happened in the middle"
        down = time.monotonic()
        with no_api_server(testbed):
            time.sleep(15)
        down_s = time.monotonic() - down
        fleet.ended("done", 240)
    load.check()
    for node, seen in load.seen.items():
        assert seen.versions == sorted(seen.versions), f"{node} went back"
    assert fleet.active() == dict.fromkeys(NAMES, version)
    assert fleet.identity() == before
    tell(
        "controller and API server",
        f"{kills.count('process')} times SIGKILL, {kills.count('pod')} times its pod deleted, the API server away for"
        f" {down_s:.0f} s: the rollout ended, {load.answered} requests, 0 failed (seed {SEED})",
    )


@pytest.mark.case("helm's client killed")
def test_helms_client_is_killed_in_the_middle_of_an_upgrade(fleet: Fleet, press: Press, tell: Tell) -> None:
    version = press.again()
    client = fleet.start(
        "upgrade", version=version, change=ONE_WAVE | {"rollout": ONE_WAVE["rollout"] | {"wait": True}}
    )
    fleet.until(lambda: fleet.rollout().get("version") == version, "the target is there, helm waits")
    client.kill()
    client.communicate()
    status = fleet.call("status")
    assert "pending-upgrade" in status.stdout + status.stderr
    refused = fleet.call("upgrade", version=version)
    assert refused.returncode != 0
    assert "another operation (install/upgrade/rollback) is in progress" in refused.stderr
    fleet.ended("done")  # the controller needs no helm
    assert fleet.active() == dict.fromkeys(NAMES, version)
    mended = fleet.call("rollback")
    assert mended.returncode == 0, mended.stderr
    fleet.upgrade(version, ONE_WAVE)
    tell("helm's client killed", "the next upgrade was refused, helm rollback freed it")


@pytest.mark.case("two upgrades at once")
def test_of_two_upgrades_at_once_the_fleet_ends_on_one(fleet: Fleet, press: Press, tell: Tell) -> None:
    versions = [press.again(), press.again()]
    clients = [fleet.start("upgrade", version=version, change=ONE_WAVE) for version in versions]
    said = [client.communicate()[0] for client in clients]
    won = [version for version, client in zip(versions, clients, strict=True) if client.returncode == 0]
    assert won, said
    lost = [text for text, client in zip(said, clients, strict=True) if client.returncode != 0]
    assert all("another operation" in text or "already exists" in text for text in lost), lost
    fleet.ended("done")
    ended = set(fleet.active().values())
    assert len(ended) == 1
    assert ended <= set(won)
    tell("two upgrades at once", f"{len(won)} taken, {len(lost)} refused; the fleet ended on one release")
