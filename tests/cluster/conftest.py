"""Students of real pipeline runs, served to the testbed's nodes by a real web server."""

import functools
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from edgedistill.storage import ObjectStore, open_store
from tests.cluster.testbed.images import EDGE_IMAGE, REPOSITORY
from tests.cluster.testbed.network import CLOUD_ADDRESS
from tests.cluster.testbed.testbed import Testbed
from tests.pipeline.conftest import COMMAND, Home

CHART = REPOSITORY / "helm" / "student-edge"


@pytest.fixture(scope="session")
def testbed() -> Testbed:
    """The testbed that `tests.cluster.run` brought up around this process."""
    bed = Testbed()
    if not bed.kubeconfig.exists():
        pytest.fail("the testbed is not up; run: make test-cluster")
    os.environ["KUBECONFIG"] = str(bed.kubeconfig)
    return bed


@dataclass
class Releases:
    """An embedded home with a few releases, each of a `make pipeline-run` of its own."""

    home: Path
    name: str = "demo"

    @property
    def store(self) -> ObjectStore:
        return open_store(self.home / "store")

    @property
    def root(self) -> Path:
        return self.home / "store" / "releases" / "metadata" / "1.root.json"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    def files(self, version: int) -> dict[str, bytes]:
        """The files of a release, by their names in the bundle."""
        prefix = f"releases/targets/{self.name}/{version}/"
        found = {}
        for key in self.store.list(prefix):
            folder, _, name = key.removeprefix(prefix).rpartition("/")
            found[f"{folder}/{name.partition('.')[2]}".lstrip("/")] = self.store.get(key)
        return found

    def make(self, seed: int) -> dict[str, Any]:
        """Run the pipeline with another seed and give its record."""
        arguments = f"ARGS=--home {self.home} --set distill.seed={seed}"
        command = ["make", "--no-print-directory", "pipeline-run", "PRESET=tiny", arguments]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return Home(self.home).record()


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
def origin(releases: Releases) -> Iterator[str]:
    """A web server over releases/ in the cloud's namespace."""
    handler = functools.partial(_Quiet, directory=str(releases.home / "store" / "releases"))
    with ThreadingHTTPServer((CLOUD_ADDRESS, 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://{CLOUD_ADDRESS}:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@dataclass
class Helm:
    """The chart on the testbed."""

    testbed: Testbed
    releases: Releases
    origin: str
    name: str = "student-edge"

    def __call__(self, verb: str, *, version: object, wait: bool = False) -> "subprocess.CompletedProcess[str]":
        """`helm install` or `helm upgrade` to a version; its failure is the caller's to judge."""
        repository, _, tag = EDGE_IMAGE.rpartition(":")
        values = {
            "image": {"repository": repository, "tag": tag, "pullPolicy": "Never"},
            "release": {"name": self.releases.name, "version": version},
            "releases": {"url": self.origin},
            "trust": {"root": self.releases.root.read_text()},
            "rollout": {
                "waves": [{"label": {"key": "edgedistill.dev/wave", "value": "canary"}}, {"percent": 100}],
                "bakeSeconds": 3,
                "pollSeconds": 1,
                "wait": wait,
            },
            "node": {"pollSeconds": 1},
        }
        program = str(self.testbed.folder / "bin" / "helm")
        command = [program, verb, self.name, str(CHART), "--values", "-", "--timeout", "5m"]
        return subprocess.run(command, input=json.dumps(values), capture_output=True, text=True, check=False)

    def uninstall(self) -> None:
        """Take the chart away."""
        program = str(self.testbed.folder / "bin" / "helm")
        subprocess.run([program, "uninstall", self.name, "--wait"], check=False, capture_output=True)


@pytest.fixture(scope="session")
def helm(testbed: Testbed, releases: Releases, origin: str) -> Iterator[Helm]:
    """helm, on a fleet with edge-1 as canary; the chart is uninstalled at the end."""
    testbed.kubectl("label", "--overwrite", "node", "edge-1", "edgedistill.dev/wave=canary")
    chart = Helm(testbed, releases, origin)
    yield chart
    chart.uninstall()


def fleet(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """`edgedistill fleet ...`."""
    command = [COMMAND, "fleet", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def fleet_status() -> dict[str, dict[str, Any]]:
    """Node name -> what `edgedistill fleet status --json` says of it."""
    done = fleet("status", "--json")
    assert done.returncode == 0, done.stderr
    return {node["name"]: node for node in json.loads(done.stdout)["nodes"]}


def pods(testbed: Testbed, component: str) -> dict[str, dict[str, Any]]:
    """Node name -> its pod of the component."""
    text = testbed.kubectl("get", "pods", "-l", f"app.kubernetes.io/component={component}", "-o", "json")
    return {pod["spec"]["nodeName"]: pod for pod in json.loads(text)["items"]}


def eventually(check: Callable[[], bool], what: str, timeout_s: float = 120) -> None:
    """Wait for something."""
    deadline = time.monotonic() + timeout_s
    while not check():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        time.sleep(0.5)
