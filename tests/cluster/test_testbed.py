"""The testbed is a real cluster, whose parts can be taken away, and it knows what it would leave behind."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.conftest import eventually
from tests.cluster.fleet import RESTRICTED, namespace
from tests.cluster.origin import Releases
from tests.cluster.testbed import faults, network
from tests.cluster.testbed.images import BROKEN_IMAGE, EDGE_IMAGE, SECOND_IMAGE
from tests.cluster.testbed.processes import run
from tests.cluster.testbed.testbed import Testbed, leftovers

pytestmark = pytest.mark.cluster
SPACE = namespace("storage")
POD = "keeper"
_CLAIM = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "10Mi"}}}
_LIMITS = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": True}


def ready(testbed: Testbed) -> dict[str, str]:
    """Node -> its Ready condition."""
    nodes = json.loads(testbed.kubectl("get", "nodes", "-o", "json"))["items"]
    conditions = {node["metadata"]["name"]: node["status"]["conditions"] for node in nodes}
    return {name: next(c["status"] for c in found if c["type"] == "Ready") for name, found in conditions.items()}


def test_nodes_are_ready_of_the_pinned_version_and_have_the_images(testbed: Testbed) -> None:
    assert ready(testbed) == {node.name: "True" for node in network.NODES}
    version = json.loads(testbed.kubectl("version", "-o", "json"))
    assert version["serverVersion"]["gitVersion"] == "v1.34.4"
    for node in json.loads(testbed.kubectl("get", "nodes", "-o", "json"))["items"]:
        names = {name for image in node["status"]["images"] for name in image["names"] or ()}
        assert {EDGE_IMAGE, SECOND_IMAGE, BROKEN_IMAGE} <= names, node["metadata"]["name"]


def test_a_node_that_is_cut_off_is_away_and_comes_back(testbed: Testbed) -> None:
    with faults.cut_off(network.NODES[1]):
        eventually(lambda: ready(testbed)["edge-2"] == "Unknown", "the cut node is not heard", 90)
    eventually(lambda: ready(testbed)["edge-2"] == "True", "the node is back", 60)


def test_it_would_notice_what_is_left_of_it(testbed: Testbed, keeper: str) -> None:
    """While it is up, everything that it must not leave is there."""
    kinds = {line.partition(":")[0] for line in leftovers()}
    assert kinds == {"folder", "namespace", "pod network", "mount", "cgroup", "pod log", "process"}


def status(url: str, method: str = "GET") -> int:
    """HTTP status of a request without credentials."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_without_credentials_the_store_gives_releases_and_nothing_else(testbed: Testbed, releases: Releases) -> None:
    releases.store.put("private/one", b"1")
    top = f"{testbed.releases.endpoint}/pipeline"
    assert status(f"{testbed.releases.url}/metadata/1.root.json") == 200
    assert status(f"{testbed.releases.url}/metadata/9999.root.json") == 404
    assert status(f"{top}/private/one") == 403
    assert status(f"{top}?list-type=2&prefix=releases/") == 403
    assert status(f"{testbed.releases.url}/metadata/mine.json", "PUT") == 403


@pytest.fixture
def keeper(testbed: Testbed) -> Iterator[str]:
    """uid of a restricted pod that notes each of its starts on an ephemeral volume of the default StorageClass."""
    testbed.kubectl("create", "namespace", SPACE)
    testbed.kubectl("label", "namespace", SPACE, RESTRICTED)
    container = {
        "name": "keeper",
        "image": EDGE_IMAGE,
        "command": ["sh", "-c", "echo started >> /state/log; exec sleep 10000"],
        "securityContext": _LIMITS,
        "volumeMounts": [{"name": "state", "mountPath": "/state"}],
    }
    spec = {
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"runAsNonRoot": True, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [container],
        "volumes": [{"name": "state", "ephemeral": {"volumeClaimTemplate": {"spec": _CLAIM}}}],
    }
    document = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": POD}, "spec": spec}
    testbed.kubectl("-n", SPACE, "create", "-f", "-", document=document)
    testbed.kubectl("-n", SPACE, "wait", "--for=condition=Ready", f"pod/{POD}", "--timeout=60s")
    yield json.loads(testbed.kubectl("-n", SPACE, "get", "pod", POD, "-o", "json"))["metadata"]["uid"]
    testbed.kubectl("delete", "namespace", SPACE)


def test_a_volume_outlives_containers_and_kubelets_and_goes_with_the_pod(testbed: Testbed, keeper: str) -> None:
    pod = json.loads(testbed.kubectl("-n", SPACE, "get", "pod", POD, "-o", "json"))
    node = next(one for one in network.NODES if one.name == pod["spec"]["nodeName"])
    claim = json.loads(testbed.kubectl("-n", SPACE, "get", "pvc", f"{POD}-state", "-o", "json"))
    folder = next((testbed.folder / node.name / "volumes").glob(f"{claim['spec']['volumeName']}_*"))
    starts = folder / "log"
    assert starts.read_text().count("started") == 1
    before = faults.pod_processes(keeper)
    testbed.restart_kubelet(node)
    faults.kill_pod_process(keeper)
    eventually(lambda: starts.read_text().count("started") == 2, "the container was started again", 90)
    eventually(lambda: bool(faults.pod_processes(keeper)), "it runs")
    assert faults.pod_processes(keeper) != before
    testbed.kubectl("-n", SPACE, "delete", "pod", POD)
    eventually(lambda: not folder.exists(), "the volume's folder is removed")
    eventually(lambda: not testbed.kubectl("get", "pv", "-o", "name").count(claim["spec"]["volumeName"]), "and it")


def test_a_frozen_pod_does_nothing_until_it_is_thawed(testbed: Testbed, keeper: str) -> None:
    (pid,) = faults.pod_processes(keeper)

    def state() -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    with faults.frozen(keeper):
        eventually(lambda: state() == "T", "it stands still", 5)
    eventually(lambda: state() == "S", "it goes on", 5)


def test_bytes_on_a_link_are_counted(testbed: Testbed, releases: Releases) -> None:
    """A megabyte from the store to a node's namespace."""
    node = network.NODES[0]
    releases.store.put("releases/big", bytes(1_000_000))
    received = faults.link_bytes(node)[0]
    fetch = "import sys, urllib.request; urllib.request.urlopen(sys.argv[1]).read()"
    run(sys.executable, "-c", fetch, f"{testbed.releases.url}/big", namespace=node.namespace)
    grown = faults.link_bytes(node)[0] - received
    assert 1_000_000 < grown < 3_000_000
