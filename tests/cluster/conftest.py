"""Students of real pipeline runs on a fleet of real kubelets."""

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cluster.clusters import ONLY_TESTBED, Cluster, CurrentCluster, KindCluster
from tests.cluster.fleet import CANARY, FLEET_LABEL, ONE_WAVE, Fleet, fleet_values, namespace
from tests.cluster.origin import (
    BucketOrigin,
    BucketReleases,
    FolderOrigin,
    Origin,
    Press,
    Releases,
    run_pipeline,
)
from tests.cluster.testbed.minio import wait_pipeline_runs
from tests.cluster.testbed.testbed import Testbed


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The cluster that CLUSTER names; the testbed was brought up by `tests.cluster.run` around this process."""
    kind = os.environ.get("CLUSTER", "testbed")
    found: Cluster
    try:
        if kind == "testbed":
            found = Testbed()
        elif kind == "current":
            kubeconfig = Path(os.environ.get("KUBECONFIG", Path.home() / ".kube" / "config"))
            found = CurrentCluster(tmp_path_factory.mktemp("current") / "cluster", kubeconfig)
        elif kind == "kind":
            found = KindCluster(tmp_path_factory.mktemp("kind") / "cluster")
        else:
            pytest.fail(f"CLUSTER is {kind!r}; expected testbed, current or kind")
    except (FileNotFoundError, RuntimeError) as error:
        pytest.fail(f"no cluster: {error}")
    if not found.kubeconfig.exists():
        pytest.fail("the testbed is not up; run: make test-cluster")
    os.environ["KUBECONFIG"] = str(found.kubeconfig)
    yield found
    if kind != "testbed":
        found.down()


@pytest.fixture(scope="session")
def testbed(cluster: Cluster) -> Testbed:
    """The testbed, for tests that cut links, stop the API server or touch the processes of nodes."""
    if not isinstance(cluster, Testbed):
        pytest.skip(ONLY_TESTBED)
    return cluster


@pytest.fixture(scope="session")
def releases(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Releases:
    """Versions 1, 2 and 3, and whatever the tests publish."""
    if not isinstance(cluster, Testbed):
        return run_pipeline(tmp_path_factory.mktemp("home"))
    bucket = cluster.releases
    wait_pipeline_runs(bucket, cluster.processes)
    return BucketReleases(bucket.home, bucket.store(), bucket=bucket)


@pytest.fixture(scope="session")
def origin(cluster: Cluster, releases: Releases) -> Iterator[Origin]:
    """Where the nodes read the releases."""
    if not isinstance(cluster, Testbed) and "ORIGIN_ADDRESS" not in os.environ:
        pytest.fail("nodes need an address of this machine to read releases from; set ORIGIN_ADDRESS")
    server: Origin = (
        BucketOrigin(cluster.releases)
        if isinstance(cluster, Testbed)
        else FolderOrigin(releases.home / "store" / "releases")
    )
    yield server
    server.close()


@pytest.fixture(scope="session")
def press(releases: Releases, tmp_path_factory: pytest.TempPathFactory) -> Press:
    """Publishes further releases, good and bad."""
    return Press(releases, tmp_path_factory.mktemp("press"))


@pytest.fixture(scope="session")
def fleet(cluster: Cluster, releases: Releases, origin: Origin) -> Iterator[Fleet]:
    """Release 1 on all nodes, with edge-1 as canary. Tests share it; each begins with whatever release it serves."""
    cluster.kubectl("label", "--overwrite", "node", "edge-1", f"{CANARY['key']}={CANARY['value']}")
    cluster.kubectl("label", "--overwrite", "nodes", "--all", f"{FLEET_LABEL}=yes")
    values = fleet_values(releases.name, origin.url, releases.root.read_text())
    found = Fleet(cluster, namespace(), values, cluster.folder / "bin" / "helm")
    found.make_namespace()
    done = found.call("install", version=1, change=ONE_WAVE)
    assert done.returncode == 0, done.stderr
    found.ended("done")
    yield found
    found.call("uninstall", "--wait")
    cluster.kubectl("delete", "namespace", found.namespace)


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
