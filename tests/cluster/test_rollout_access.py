"""Who reaches a node, and how: on the same node, from outside with token and TLS, by helm 3, and after uninstall."""

import json
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from edgedistill import signing
from edgedistill.storage import open_store
from tests.cluster.clusters import Cluster
from tests.cluster.fleet import ONE_WAVE, Fleet, fleet_values, namespace
from tests.cluster.origin import Origin, Releases
from tests.cluster.testbed.network import NODES
from tests.go_modules import built

pytestmark = pytest.mark.cluster
NAMES = [node.name for node in NODES]
EDGE_2 = NODES[1]
TOKEN = "a-token-of-this-test-alone"
PORT = 30080
KINDS = "pods,jobs,deployments,daemonsets,configmaps,roles,rolebindings,serviceaccounts,services,networkpolicies,pvc"


def assert_nothing_is_left(cluster: Cluster, fleet: Fleet) -> None:
    """Neither in the namespace nor among the objects of the whole cluster."""
    fleet.until_gone(KINDS)
    assert fleet.namespace not in cluster.kubectl("get", "clusterroles,clusterrolebindings", "-o", "name")


def test_a_program_on_a_node_reaches_that_node(fleet: Fleet) -> None:
    address = fleet.kubectl("get", "service", fleet.name, "-o", "jsonpath={.spec.clusterIP}")
    code = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=5).read().decode())"
    command = [sys.executable, "-c", code, f"http://{address}:8080/status"]
    for node in NODES:
        done = subprocess.run(
            ["nsenter", f"--net=/run/netns/{node.namespace}", *command], capture_output=True, text=True
        )
        assert json.loads(done.stdout)["node"] == node.name, done.stderr
    (node, pod), *_ = fleet.pods("controller").items()
    pid = fleet.process(pod, "edge.rollout")
    done = subprocess.run(["nsenter", "--target", str(pid), "--net", *command], capture_output=True, text=True)
    assert json.loads(done.stdout)["node"] == node, "from a pod, too"


def test_helm_test_asks_for_a_real_answer(fleet: Fleet) -> None:
    done = fleet.call("test")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"release {fleet.settled()}" in done.stdout + done.stderr


@pytest.fixture(scope="module")
def guarded(
    cluster: Cluster, releases: Releases, origin: Origin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A second fleet, on edge-2 alone, with token, TLS and a NodePort, by helm 3."""
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "2", "-subj", "/CN=edge", "-addext", f"subjectAltName=IP:{EDGE_2.address}"]
    files = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    subprocess.run([*command, *files], check=True, capture_output=True)
    (folder / "token").write_text(TOKEN)
    values = fleet_values(releases.name, origin.url, releases.root.read_text()) | {
        "nodeSelector": {"kubernetes.io/hostname": EDGE_2.name},
        "access": {"tokenSecret": "edge-token", "tlsSecret": "edge-tls"},
        "service": {"type": "NodePort", "nodePorts": {"http": PORT}},
        "networkPolicy": {"clients": [{"ipBlock": {"cidr": "10.77.0.0/16"}}]},
    }
    found = Fleet(cluster, namespace("guarded"), values, built("helm3") / "helm")
    found.make_namespace()
    found.kubectl("create", "secret", "generic", "edge-token", f"--from-file=token={folder / 'token'}")
    found.kubectl("create", "secret", "tls", "edge-tls", f"--cert={folder / 'tls.crt'}", f"--key={folder / 'tls.key'}")
    found.certificate = folder / "tls.crt"
    done = found.call("install", version=1, change=ONE_WAVE)
    assert done.returncode == 0, done.stderr
    found.ended("done")
    yield found
    found.call("uninstall", "--wait")
    cluster.kubectl("delete", "namespace", found.namespace)


@dataclass
class Outside:
    """A client beside the cluster that asks a node's own address."""

    certificate: Path
    scheme: str = "https"

    def status(self, token: str | None) -> int:
        """HTTP status of the list of models; 0: no connection."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        request = urllib.request.Request(f"{self.scheme}://{EDGE_2.address}:{PORT}/v2/models", headers=headers)
        context = ssl.create_default_context(cafile=str(self.certificate)) if self.scheme == "https" else None
        try:
            with urllib.request.urlopen(request, timeout=5, context=context) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0


@pytest.mark.usefixtures("testbed")  # elsewhere this machine may not reach the nodes
def test_a_node_port_answers_with_token_and_tls_only(guarded: Fleet) -> None:
    assert guarded.certificate is not None
    outside = Outside(guarded.certificate)
    assert outside.status(TOKEN) == 200
    assert outside.status(None) == 401
    assert outside.status(TOKEN + "x") == 401
    assert Outside(guarded.certificate, "http").status(TOKEN) == 0


def test_helm_test_takes_token_and_certificate(guarded: Fleet) -> None:
    done = guarded.call("test")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.case("rolled back")
def test_helm_3_upgrades_and_rolls_back(guarded: Fleet) -> None:
    assert "v3." in subprocess.run([str(guarded.helm), "version"], capture_output=True, text=True, check=True).stdout
    guarded.upgrade(2, ONE_WAVE)
    guarded.until(lambda: guarded.active() == {EDGE_2.name: 2}, "release 2 is served")
    done = guarded.call("rollback")
    assert done.returncode == 0, done.stderr
    guarded.until(lambda: guarded.active() == {EDGE_2.name: 1}, "release 1 is served again")


@pytest.mark.case("uninstall")
def test_uninstall_by_helm_3_leaves_only_the_operators_secrets(cluster: Cluster, guarded: Fleet) -> None:
    done = guarded.call("uninstall")
    assert done.returncode == 0, done.stderr
    assert_nothing_is_left(cluster, guarded)
    names = guarded.kubectl("get", "secrets", "-o", "name").split()
    assert names == ["secret/edge-tls", "secret/edge-token"]


@pytest.fixture(scope="module")
def stranger(
    cluster: Cluster, releases: Releases, origin: Origin, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fleet]:
    """A fleet on all nodes that trusts another root than the origin's."""
    folder = tmp_path_factory.mktemp("stranger")
    store = open_store(folder / "store")
    signing.init_repository(store, folder / "keys")
    root = (folder / "store" / "releases" / "metadata" / "1.root.json").read_text()
    values = fleet_values(releases.name, origin.url, root)
    values["rollout"] |= ONE_WAVE["rollout"] | {"failurePercent": 100}
    found = Fleet(cluster, namespace("stranger"), values, cluster.folder / "bin" / "helm")
    found.make_namespace()
    done = found.call("install", version=1)
    assert done.returncode == 0, done.stderr
    yield found
    found.call("uninstall", "--wait")
    cluster.kubectl("delete", "namespace", found.namespace)


@pytest.mark.case("first rollout stopped")
def test_with_a_wrong_root_every_node_refuses(stranger: Fleet) -> None:
    assert "failed: bad_signature" in stranger.ended("stopped")
    assert stranger.assigned() == {}, "there is no release to go back to"
    for node in NAMES:
        said = stranger.said(node)
        assert "bad_signature" in [event["reason"] for event in said["events"]]
        assert (said["active"], said["state"]) == (None, "waiting")


def test_helm_test_fails_when_no_node_serves(stranger: Fleet) -> None:
    done = stranger.call("test", "--timeout", "20s")
    assert done.returncode != 0


@pytest.mark.case("uninstall")
def test_uninstall_leaves_nothing(cluster: Cluster, stranger: Fleet) -> None:
    done = stranger.call("uninstall")
    assert done.returncode == 0, done.stderr
    assert_nothing_is_left(cluster, stranger)
