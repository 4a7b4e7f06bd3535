"""Students of real pipeline runs on a fleet of real kubelets."""

import os
import time
from collections.abc import Callable, Iterator

import pytest

from tests.cluster.fleet import CANARY, FLEET_LABEL, ONE_WAVE, Fleet, fleet_values, namespace
from tests.cluster.origin import Origin, Press, Releases
from tests.cluster.testbed.testbed import Testbed


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The testbed that `tests.cluster.run` brought up around this process."""
    bed = Testbed()
    if not bed.kubeconfig.exists():
        pytest.fail("the testbed is not up; run: make test-cluster")
    os.environ["KUBECONFIG"] = str(bed.kubeconfig)
    return bed


@pytest.fixture(scope="session")
def releases(tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """Three releases: versions 1, 2 and 3."""
    found = Releases(tmp_path_factory.mktemp("home"))
    for seed in (1, 2, 3):
        record = found.make(seed)
        assert record["release"]["version"] == seed
        assert record["metrics"]["student_int8"]["top1"] > 0.5
    return found


@pytest.fixture(scope="session")
def origin(releases: Releases) -> Iterator[Origin]:
    """The releases, served in the cloud's network."""
    server = Origin(releases.folder)
    yield server
    server.close()


@pytest.fixture(scope="session")
def press(releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Press:
    """Publishes further releases, good and bad."""
    return Press(releases, tmp_path_factory.mktemp("press"))


@pytest.fixture(scope="session")
def fleet(testbed: Testbed, releases: Releases, origin: Origin) -> Iterator[Fleet]:
    """Release 1 on all nodes, with edge-1 as canary. Tests share it; each begins with whatever release it serves."""
    testbed.kubectl("label", "--overwrite", "node", "edge-1", f"{CANARY['key']}={CANARY['value']}")
    testbed.kubectl("label", "--overwrite", "nodes", "--all", f"{FLEET_LABEL}=yes")
    values = fleet_values(releases.name, origin.url, releases.root.read_text())
    found = Fleet(testbed, namespace(), values, testbed.folder / "bin" / "helm")
    found.make_namespace()
    done = found.call("install", version=1, change=ONE_WAVE)
    assert done.returncode == 0, done.stderr
    found.ended("done")
    yield found
    found.call("uninstall", "--wait")
    testbed.kubectl("delete", "namespace", found.namespace)


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Say what was counted: tell("rollout", "3 nodes ..."). Shown after the last test."""
    return lambda what, sentence: record_property("proof", f"{what}: {sentence}")


def eventually(check: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    """Wait for something."""
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.5)
