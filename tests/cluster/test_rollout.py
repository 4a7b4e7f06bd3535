"""The thin chain: students of real pipeline runs, moved onto real kubelets by helm and the rollout controller.

The tests of this file are one story and run in order.
"""

import json
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.http as http_client

from edgedistill import signing
from edgedistill.bundle import MANIFEST, Manifest, write_bundle
from tests.cluster.conftest import Helm, Releases, eventually, fleet, fleet_status, pods
from tests.cluster.testbed.network import NODES
from tests.cluster.testbed.testbed import Testbed

pytestmark = pytest.mark.cluster


def ask(address: str, png: bytes, name: str) -> tuple[str, Any]:
    """One picture to a node's pod: the version that answered, and its logits."""
    with http_client.InferenceServerClient(f"{address}:8080") as client:
        tensor = http_client.InferInput("image", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([png], dtype=np.object_))
        answer = client.infer(name, [tensor])
        return answer.get_response()["model_version"], answer.as_numpy("logits")[0]


def served(testbed: Testbed) -> dict[str, int]:
    """Node -> the version that it serves."""
    return {name: node["active"] for name, node in fleet_status().items()}


def identity(testbed: Testbed) -> dict[str, tuple[str, int]]:
    """Node -> its pod's uid and restarts."""
    found = pods(testbed, "node")
    return {n: (p["metadata"]["uid"], p["status"]["containerStatuses"][0]["restartCount"]) for n, p in found.items()}


def test_install_brings_the_first_student_to_every_node(testbed: Testbed, helm: Helm, releases: Releases) -> None:
    done = helm("install", version=1)
    assert done.returncode == 0, done.stderr
    waited = fleet("wait", "--timeout", "240")
    assert waited.returncode == 0, waited.stderr
    assert served(testbed) == {node.name: 1 for node in NODES}
    files = releases.files(1)
    manifest = Manifest.parse(files[MANIFEST])
    for pod in pods(testbed, "node").values():
        for golden in manifest.golden:
            version, logits = ask(pod["status"]["podIP"], files[golden.file], releases.name)
            assert version == "1"
            np.testing.assert_allclose(logits, golden.logits, atol=manifest.golden_tolerance)


def test_upgrade_goes_canary_first_without_a_lost_request(testbed: Testbed, helm: Helm, releases: Releases) -> None:
    before = identity(testbed)
    picture = next(data for name, data in releases.files(1).items() if name.endswith(".png"))
    addresses = [pod["status"]["podIP"] for pod in pods(testbed, "node").values()]
    failures, answers, stop = [], [], threading.Event()

    def load(address: str) -> None:
        while not stop.is_set():
            try:
                answers.append((address, ask(address, picture, releases.name)[0]))
            except Exception as error:
                failures.append(repr(error))
            time.sleep(0.02)

    threads = [threading.Thread(target=load, args=(address,)) for address in addresses]
    for thread in threads:
        thread.start()
    seen: list[dict[str, int]] = []
    try:
        done = helm("upgrade", version=2)
        assert done.returncode == 0, done.stderr

        def is_out() -> bool:
            seen.append(served(testbed))
            return set(seen[-1].values()) == {2}

        eventually(is_out, "both nodes serve release 2", 240)
        assert fleet("wait", "--timeout", "60").returncode == 0
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert not failures
    assert {version for _, version in answers} == {"1", "2"}
    assert {"edge-1": 2, "edge-2": 1} in seen, "the canary went first"
    assert {"edge-1": 1, "edge-2": 2} not in seen
    assert identity(testbed) == before, "no pod was restarted"
    print(f"{len(answers)} requests answered during the upgrade, 0 failed")


def test_helm_itself_waits_for_the_third(testbed: Testbed, helm: Helm) -> None:
    done = helm("upgrade", version=3, wait=True)
    assert done.returncode == 0, done.stderr
    assert served(testbed) == {node.name: 3 for node in NODES}


def publish_bad(releases: Releases, folder: Path) -> int:
    """Sign a release whose golden answers are not what its model says."""
    files = releases.files(3)
    manifest = Manifest.parse(files[MANIFEST])
    folder.mkdir()
    version = signing.next_version(releases.store, releases.name)
    write_bundle(
        folder,
        name=releases.name,
        version=version,
        created="2026-01-01T00:00:00Z",
        model_xml=files["model.xml"],
        model_bin=files["model.bin"],
        labels=files["labels.txt"].decode().splitlines(),
        size=manifest.size,
        golden=[(files[one.file], [-value for value in one.logits]) for one in manifest.golden],
    )
    return signing.publish(releases.store, releases.keys, folder)


def test_a_refused_release_goes_nowhere(testbed: Testbed, helm: Helm, releases: Releases, tmp_path: Path) -> None:
    version = publish_bad(releases, tmp_path / "bad")
    done = helm("upgrade", version=version, wait=True)
    assert done.returncode != 0
    told = fleet("wait", "--timeout", "60")
    assert told.returncode != 0
    assert f"release {version} was stopped: node edge-1 failed: wrong_answer" in told.stderr
    nodes = fleet_status()
    assert {name: node["active"] for name, node in nodes.items()} == {"edge-1": 3, "edge-2": 3}
    assert {name: node["assigned"] for name, node in nodes.items()} == {"edge-1": 3, "edge-2": 3}
    events = json.loads(testbed.kubectl("get", "events", "--field-selector=reason=RolloutStopped", "-o", "json"))
    assert any("wrong_answer" in event["message"] for event in events["items"])


def test_a_version_that_nobody_published_stops_at_the_canary(testbed: Testbed, helm: Helm) -> None:
    assert helm("upgrade", version=99).returncode == 0
    told = fleet("wait", "--timeout", "120")
    assert "node edge-1 failed: not_listed" in told.stderr
    assert served(testbed) == {node.name: 3 for node in NODES}


def test_going_back_is_an_upgrade_too(testbed: Testbed, helm: Helm) -> None:
    assert helm("upgrade", version=2).returncode == 0
    waited = fleet("wait", "--timeout", "240")
    assert waited.returncode == 0, waited.stderr
    assert served(testbed) == {node.name: 2 for node in NODES}


def test_a_wrong_value_is_refused_before_anything_changes(testbed: Testbed, helm: Helm) -> None:
    done = helm("upgrade", version="three")
    assert done.returncode != 0
    assert "/release/version" in done.stderr
    assert "want integer" in done.stderr


def test_uninstall_leaves_nothing(testbed: Testbed, helm: Helm) -> None:
    helm.uninstall()
    kinds = "pods,deployments,daemonsets,configmaps,roles,rolebindings,serviceaccounts,services"
    selector = "app.kubernetes.io/instance=student-edge"

    def is_empty() -> bool:
        return not testbed.kubectl("get", kinds, "-l", selector, "-o", "name").strip()

    eventually(is_empty, "nothing of the chart is left")
