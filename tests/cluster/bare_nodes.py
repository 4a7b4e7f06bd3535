"""Nodes without kubelets: real Node, Lease and Pod objects, and behind each one a real node process of this machine.

What a kubelet does for them is done here, and no more: it renews the lease, says that the pod runs and at which
address, and brings the node's version from the assignment into a file, some time after it changed. A node that is away
gets none of it, and its line to the origin is cut; that its kubelet is not heard is then the node controller's finding.
"""

import contextlib
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

from kubernetes import client, config

from tests.edge.conftest import NodeProcess

TAINT = "edgedistill.dev/no-kubelet"  # keeps every DaemonSet's pods away
LEASES, LEASE_S = "kube-node-lease", 5.0
STARTS_AT_ONCE, RENEWALS_AT_ONCE = 4, 8


@dataclass
class BareNode:
    """One node: its name, the address of its pod, and the process behind it."""

    name: str
    address: str  # a loopback address of its own
    folder: Path
    process: NodeProcess
    is_away: bool = False
    taken: int = 0  # the version that its file holds
    due: tuple[int, float] | None = None  # a version that its file will hold, and from when on (monotonic)

    @property
    def wanted(self) -> Path:
        return self.folder / "wanted"

    @property
    def active(self) -> int:
        """The version that the process itself says it serves."""
        status = self.process.status()
        return int(status["active"]["version"]) if status["active"] else 0


@dataclass
class Cluster:
    """One fleet of bare nodes in a namespace of its own. A context manager: nothing of it is left.

    Args:
        release: name of the chart's release, and of the namespace.
        sync_s: a changed assignment reaches a node after a random part of it, as by its kubelet's period.
    """

    release: str
    sync_s: float
    generator: Random
    nodes: list[BareNode] = field(default_factory=list)

    def __enter__(self) -> "Cluster":
        config.load_kube_config(os.environ["KUBECONFIG"])  # the client itself reads it when it is imported
        self.core, self.leases = client.CoreV1Api(), client.CoordinationV1Api()
        self._stopping, self._threads = threading.Event(), list[threading.Thread]()
        self._pool = ThreadPoolExecutor(RENEWALS_AT_ONCE)
        self.failures: list[str] = []  # of what stands in for the kubelets
        self.core.create_namespace({"metadata": {"name": self.release}})
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()
        self._pool.shutdown()
        with ThreadPoolExecutor(STARTS_AT_ONCE) as pool:
            list(pool.map(_end, self.nodes))
        for node in self.nodes:
            with contextlib.suppress(client.ApiException):
                self.core.delete_node(node.name)
            with contextlib.suppress(client.ApiException):
                self.leases.delete_namespaced_lease(node.name, LEASES)
        self.core.delete_collection_namespaced_pod(self.release, grace_period_seconds=0)
        self.core.delete_namespace(self.release)

    def join(self, *, canaries: int, runtime: str) -> None:
        """Make the objects of nodes whose processes serve, and begin to report them."""
        for number, node in enumerate(self.nodes):
            labels = {"edgedistill.dev/scale": self.release}
            labels |= {"edgedistill.dev/wave": "canary"} if number < canaries else {}
            taints = [{"key": TAINT, "effect": effect} for effect in ("NoSchedule", "NoExecute")]
            self.core.create_node({"metadata": {"name": node.name, "labels": labels}, "spec": {"taints": taints}})
            self._report(node.name)
            lease = {"holderIdentity": node.name, "leaseDurationSeconds": 40, "renewTime": _now()}
            self.leases.create_namespaced_lease(LEASES, {"metadata": {"name": node.name}, "spec": lease})
            self._run_pod(node, runtime)
        for work in (self._renew, self._mirror):
            self._threads.append(threading.Thread(target=self._repeat, args=[work]))
            self._threads[-1].start()

    def assignment(self) -> Any:
        """The controller's ConfigMap; None: there is none yet."""
        try:
            return self.core.read_namespaced_config_map(f"{self.release}-assignment", self.release)
        except client.ApiException as error:
            if error.status == 404:
                return None
            raise

    def heard(self) -> set[str]:
        """The nodes that the node controller hears."""
        found = self.core.list_node(label_selector=f"edgedistill.dev/scale={self.release}").items
        unknown = {"Unknown"}
        return {
            node.metadata.name
            for node in found
            if not unknown & {one.status for one in node.status.conditions if one.type == "Ready"}
        }

    def _ready_pods(self) -> set[str]:
        """Names of the nodes whose pods are ready."""
        ready = ("Ready", "True")
        pods = self.core.list_namespaced_pod(self.release).items
        return {pod.spec.node_name for pod in pods if ready in [(c.type, c.status) for c in pod.status.conditions]}

    def _report(self, name: str) -> None:
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now}
        self.core.patch_node_status(name, {"status": {"conditions": [ready]}})

    def _run_pod(self, node: BareNode, runtime: str) -> None:
        labels = {"app.kubernetes.io/instance": self.release, "app.kubernetes.io/component": "node"}
        notes = {"edgedistill.dev/runtime": runtime}
        spec = {
            "nodeName": node.name,
            "automountServiceAccountToken": False,
            "tolerations": [{"operator": "Exists"}],
            "containers": [{"name": "node", "image": "localhost/none:1"}],
        }
        metadata = {"name": self._pod(node), "labels": labels, "annotations": notes}
        self.core.create_namespaced_pod(self.release, {"metadata": metadata, "spec": spec})
        self._report_pod(node)

    def _pod(self, node: BareNode) -> str:
        return f"{self.release}-node-{node.name}"

    def _report_pod(self, node: BareNode) -> None:
        began = {"running": {"startedAt": _now()}}
        ready = {"name": "node", "image": "", "imageID": "", "ready": True, "restartCount": 0, "state": began}
        status = {
            "phase": "Running",
            "podIP": node.address,
            "podIPs": [{"ip": node.address}],
            "conditions": [{"type": "Ready", "status": "True"}],
            "containerStatuses": [ready],
        }
        self.core.patch_namespaced_pod_status(self._pod(node), self.release, {"status": status})

    def _repeat(self, work: Callable[[], float]) -> None:
        while not self._stopping.is_set():
            try:
                pause_s = work()
            except Exception as error:  # the test reads it
                self.failures.append(repr(error))
                pause_s = 1.0
            self._stopping.wait(pause_s)

    def _renew(self) -> float:
        """Each kubelet's lease, and its word that node and pod are ready where the node controller gave them up."""
        began, heard, ready = time.monotonic(), self.heard(), self._ready_pods()

        def renew(node: BareNode) -> None:
            if not node.is_away and not self._stopping.is_set():
                self.leases.patch_namespaced_lease(node.name, LEASES, {"spec": {"renewTime": _now()}})
                if node.name not in heard:
                    self._report(node.name)
                if node.name not in ready:
                    self._report_pod(node)

        list(self._pool.map(renew, self.nodes))  # a hundred kubelets would not wait for one another
        return max(0.0, LEASE_S - (time.monotonic() - began))

    def _mirror(self) -> float:
        """Each kubelet's volume: the node's key of the assignment as a file."""
        found = self.assignment()
        versions, now = (found.data or {} if found else {}), time.monotonic()
        for node in self.nodes:
            version = int(versions.get(node.name, 0))
            if node.is_away or not version:
                continue
            if version != (node.due[0] if node.due else node.taken):
                node.due = (version, now + self.generator.uniform(0.0, self.sync_s))
            if node.due and now >= node.due[1]:
                temporary = node.wanted.with_suffix(".tmp")
                temporary.write_text(str(version))
                temporary.rename(node.wanted)
                node.taken, node.due = version, None
        return 0.5


def start_nodes(
    count: int, folder: Path, arguments: Callable[[int], Sequence[str]], *, seed: Path, version: int
) -> list[BareNode]:
    """Start node processes that have run before: each gets a copy of the state folder `seed`, of `version`."""
    nodes, cores = [], sorted(os.sched_getaffinity(0))
    for number in range(count):
        one, address = folder / f"edge-{number:03d}", f"127.1.{number // 250}.{number % 250 + 1}"
        shutil.copytree(seed, one / "state")
        (one / "wanted").write_text(str(version))
        own = ["--state", str(one / "state"), "--version-file", str(one / "wanted"), "--node-name", one.name]
        ports = ["--listen", address, "--http-port", "8080", "--grpc-port", "8081"]
        # A device with one core: the updating child takes the upper half of what it finds, here the same for all.
        core = ("taskset", "--cpu-list", str(cores[number % len(cores)]))
        process = NodeProcess([*arguments(number), *own, *ports], wrapper=core)
        nodes.append(BareNode(one.name, address, one, process, taken=version))
    with _ended_on_failure(nodes), ThreadPoolExecutor(STARTS_AT_ONCE) as pool:
        for _ in pool.map(lambda node: node.process.start(), nodes):
            pass
    return nodes


@contextlib.contextmanager
def _ended_on_failure(nodes: Sequence[BareNode]) -> Iterator[None]:
    try:
        yield
    except BaseException:
        for node in nodes:
            _end(node)
        raise


def _end(node: BareNode) -> None:
    if node.process.process is not None:
        with contextlib.suppress(Exception):  # the others have to be ended, too
            node.process.kill(signal.SIGTERM)
        if node.process.process.poll() is None:
            node.process.kill()


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
