"""One fleet: the chart of one helm release in one namespace, seen from outside."""

import copy
import json
import os
import signal
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.clusters import ONLY_TESTBED, Cluster
from tests.cluster.testbed.images import EDGE_IMAGE, REPOSITORY
from tests.cluster.testbed.testbed import Testbed
from tests.pipeline.conftest import COMMAND

CHART = REPOSITORY / "helm" / "student-edge"
FLEET_LABEL = "edgedistill.dev/fleet"  # the nodes of the fleets carry it
CANARY = {"key": "edgedistill.dev/wave", "value": "canary"}
NAMESPACE = "edge-fleet"
PROBATION_S = 8  # not the 20 of the chart: each wave of each test waits so long
ONE_WAVE = {"rollout": {"waves": [{"percent": 100}]}}
RESTRICTED = "pod-security.kubernetes.io/enforce=restricted"
Done = subprocess.CompletedProcess[str]
Values = Mapping[str, Any]


def namespace(kind: str = "") -> str:
    """Of the fleet that the tests share, or of another one."""
    return f"{NAMESPACE}-{kind}" if kind else NAMESPACE


@dataclass
class Fleet:
    """The chart on a cluster.

    Args:
        cluster: the testbed, or another one.
        namespace: made restricted, by `make_namespace`.
        values: of every upgrade; a test changes some.
        helm: the program.
        name: of the helm release.
    """

    cluster: Cluster
    namespace: str
    values: dict[str, Any]
    helm: Path
    name: str = "student-edge"
    certificate: Path | None = None  # of the nodes, where they speak TLS

    def make_namespace(self) -> None:
        """A namespace that enforces the restricted Pod Security standard."""
        if f"namespace/{self.namespace}" not in self.cluster.kubectl("get", "namespaces", "-o", "name").split():
            self.cluster.kubectl("create", "namespace", self.namespace)
        self.cluster.kubectl("label", "--overwrite", "namespace", self.namespace, RESTRICTED)

    def kubectl(self, *arguments: str) -> str:
        """kubectl in the fleet's namespace."""
        return self.cluster.kubectl("-n", self.namespace, *arguments)

    def command(self, verb: str, *flags: str) -> list[str]:
        """A helm command line on this release."""
        chart = [str(CHART), "--values", "-"] if verb in ("install", "upgrade") else []
        rest = ["--timeout", "5m"] if verb not in ("get", "status") else []
        where = ["--namespace", self.namespace]
        head = [str(self.helm), verb, *(["values"] if verb == "get" else []), self.name]
        return [*head, *chart, *where, *rest, *flags]

    def changed(self, version: object, change: Values | None = None) -> str:
        """The values of a version, as JSON for helm's stdin."""
        values = _merged(self.values, change or {})
        values["release"]["version"] = version
        return json.dumps(values)

    def call(self, verb: str, *flags: str, version: object = 0, change: Values | None = None) -> Done:
        """Run helm; its failure is the caller's to judge."""
        text = self.changed(version, change) if verb in ("install", "upgrade") else ""
        return subprocess.run(self.command(verb, *flags), input=text, capture_output=True, text=True, check=False)

    def start(self, verb: str, *flags: str, version: object, change: Values | None = None) -> "subprocess.Popen[str]":
        """The same, in the background."""
        process = subprocess.Popen(
            self.command(verb, *flags),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(self.changed(version, change))
        process.stdin.close()
        process.stdin = None  # communicate() would close it a second time
        return process

    def upgrade(self, version: object, change: Values | None = None, *flags: str) -> None:
        """`helm upgrade`, which must work."""
        done = self.call("upgrade", *flags, version=version, change=change)
        assert done.returncode == 0, done.stderr + done.stdout

    def cli_command(self, *arguments: str) -> list[str]:
        """The command line of `edgedistill fleet ...` on this fleet."""
        return [COMMAND, "fleet", "--release", self.name, "--namespace", self.namespace, *arguments]

    def cli(self, *arguments: str) -> Done:
        """Run it; its failure is the caller's to judge."""
        return subprocess.run(self.cli_command(*arguments), capture_output=True, text=True, check=False)

    def document(self) -> dict[str, Any]:
        """What `edgedistill fleet status --json` says."""
        done = self.cli("status", "--json")
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)  # type: ignore[no-any-return]

    def rollout(self) -> dict[str, Any]:
        """The controller's progress for the newest target; empty: it has not seen it yet."""
        found = {one["metadata"]["name"]: one for one in self._list("configmaps")}
        target = json.loads(found[f"{self.name}-target"]["data"]["target.json"])
        notes = found.get(f"{self.name}-assignment", {}).get("metadata", {}).get("annotations", {})
        progress: dict[str, Any] = json.loads(notes.get("edgedistill.dev/rollout", "{}"))
        is_its = progress.get("version") == target["version"] and progress.get("revision") == target["revision"]
        return progress if is_its else {}

    def settled(self) -> int:
        """The release that the fleet last finished."""
        progress = self.rollout()
        return int(progress["version"] if progress["state"] == "done" else progress["settled"])

    def assigned(self) -> dict[str, int]:
        """Node -> the version that the controller tells it."""
        found = {one["metadata"]["name"]: one for one in self._list("configmaps")}
        data = found.get(f"{self.name}-assignment", {}).get("data") or {}
        return {node: int(version) for node, version in data.items() if version.isdigit()}

    def ended(self, state: str, timeout_s: float = 120) -> str:
        """Wait for the end of the newest rollout, which must be `state`; the controller's reason."""
        deadline, progress = time.monotonic() + timeout_s, {}
        while time.monotonic() < deadline:
            progress = self.rollout()
            if progress.get("state") in ("done", "stopped"):
                assert progress["state"] == state, progress
                return str(progress["reason"])
            time.sleep(0.5)
        raise AssertionError(f"not {state} after {timeout_s} s: {progress}; {self.active()}")

    def until_gone(self, kinds: str) -> None:
        """Wait until nothing of the helm release is left in its namespace."""
        selector = f"app.kubernetes.io/instance={self.name}"
        deadline = time.monotonic() + 60
        while left := self.kubectl("get", kinds, "-l", selector, "-o", "name").split():
            assert time.monotonic() < deadline, left
            time.sleep(0.5)

    def until(self, check: Callable[[], bool], what: str, timeout_s: float = 60) -> None:
        """Wait for something; what the fleet says is in the error."""
        deadline = time.monotonic() + timeout_s
        while not check():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {timeout_s} s: {what}; {self.rollout()}, {self.active()}")
            time.sleep(0.5)

    def pods(self, component: str = "node") -> dict[str, dict[str, Any]]:
        """Node -> its newest pod of the component that is not being deleted."""
        selector = f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        found = sorted(self._list("pods", "-l", selector), key=lambda pod: pod["metadata"]["creationTimestamp"])
        alive = [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]
        return {pod["spec"]["nodeName"]: pod for pod in alive if "nodeName" in pod["spec"]}

    def addresses(self) -> dict[str, str]:
        """Node -> address of its pod."""
        return {node: self.cluster.reach(pod) for node, pod in self.pods().items() if "podIP" in pod["status"]}

    def identity(self) -> dict[str, tuple[str, int]]:
        """Node -> its pod's uid and restarts."""
        known = {node: (pod["metadata"]["uid"], pod["status"]) for node, pod in self.pods().items()}
        return {n: (u, sum(c["restartCount"] for c in s.get("containerStatuses", []))) for n, (u, s) in known.items()}

    def said(self, node: str) -> dict[str, Any]:
        """The node's /status, asked at its pod; empty: it does not answer."""
        return self._said(self.addresses().get(node, ""))

    def serves_at(self, address: str) -> int | None:
        """The version that a node serves, by its pod's address; None: it does not answer, or serves nothing."""
        return (self._said(address).get("active") or {}).get("version")

    def active(self) -> dict[str, int | None]:
        """Node -> the version that it serves; None: it does not answer, or serves nothing."""
        return {node: (self.said(node).get("active") or {}).get("version") for node in self.pods()}

    def events(self, reason: str) -> list[str]:
        """Messages of the Events with this reason, oldest first."""
        found = self._list("events", f"--field-selector=reason={reason}")
        return [one["message"] for one in sorted(found, key=lambda one: one["metadata"]["creationTimestamp"])]

    def process(self, pod: Mapping[str, Any], module: str = "edge.node") -> int:
        """The process of a pod that runs this module, as this machine numbers it; only on the testbed."""
        if not isinstance(self.cluster, Testbed):
            pytest.skip(ONLY_TESTBED)
        mark = f"pod{pod['metadata']['uid']}"
        for path in Path("/proc").glob("[0-9]*"):
            try:
                is_its = mark in (path / "cgroup").read_text()
                words = (path / "cmdline").read_bytes().split(b"\0") if is_its else []
            except OSError:
                continue
            if module.encode() in words:
                return int(path.name)
        raise AssertionError(f"no process of {module} in pod {pod['metadata']['name']}")

    def signal(self, node: str, number: signal.Signals) -> None:
        """Send a signal to a node's process, from outside its pod."""
        os.kill(self.process(self.pods()[node]), number)

    def _said(self, address: str) -> dict[str, Any]:
        context = None
        if self.certificate:
            context = ssl.create_default_context(cafile=str(self.certificate))
            context.check_hostname = False  # pods are asked by address
        try:
            url = f"{'https' if context else 'http'}://{address}:8080/status"
            with urllib.request.urlopen(url, timeout=3, context=context) as answer:
                return json.load(answer)  # type: ignore[no-any-return]
        except (OSError, ValueError):
            return {}

    def _list(self, kind: str, *arguments: str) -> list[dict[str, Any]]:
        return json.loads(self.kubectl("get", kind, "-o", "json", *arguments))["items"]  # type: ignore[no-any-return]


def fleet_values(name: str, releases: str, root: str) -> dict[str, Any]:
    """Values for short rollouts: two waves, the canary first.

    Args:
        name: of the releases.
        releases: address of the origin.
        root: text of the root of trust.
    """
    repository, _, tag = os.environ.get("EDGE_IMAGE", EDGE_IMAGE).rpartition(":")
    return {
        "image": {"repository": repository, "tag": tag, "pullPolicy": "IfNotPresent"},
        "release": {"name": name},
        "releases": {"url": releases},
        "trust": {"root": root},
        "rollout": {
            "waves": [{"label": CANARY}, {"percent": 100}],
            "bakeSeconds": 2,
            "pollSeconds": 1,
            "silenceSeconds": 15,
            "deadlineSeconds": 90,
        },
        "node": {"pollSeconds": 1, "probationSeconds": PROBATION_S},
        "nodeSelector": {FLEET_LABEL: "yes"},
        "controller": {"nodeSelector": {"kubernetes.io/hostname": "edge-2"}},  # the one whose link is never cut
    }


def _merged(values: Values, change: Values) -> dict[str, Any]:
    """Values with a change, maps merged as helm does."""
    result = copy.deepcopy(dict(values))
    for key, value in change.items():
        inner = result.get(key)
        result[key] = _merged(inner, value) if isinstance(inner, dict) and isinstance(value, Mapping) else value
    return result
