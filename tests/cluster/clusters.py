"""Which cluster the tests run on, by the variable CLUSTER: the testbed, the current context, or one that kind makes.

Pods of other clusters than the testbed are reached through `kubectl port-forward`, each at a loopback address of its
own, so that its ports are the same everywhere.
"""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tests.cluster.testbed.images import CONTAINERFILE, EDGE_IMAGE, REPOSITORY
from tests.cluster.testbed.network import NODES
from tests.cluster.testbed.processes import run

KIND = "edgedistill"  # name of the cluster that kind makes
KIND_NODE = "kindest/node:v1.34.0"
PORTS = (8080, 8081)
ONLY_TESTBED = "only on the testbed: it cuts links, stops the API server or touches processes of nodes"
_FORWARD_S = 20


class Cluster(Protocol):
    """What every kind of cluster offers."""

    folder: Path  # programs are in bin/
    kubeconfig: Path

    def kubectl(self, *arguments: str, document: object = None) -> str:
        """Run kubectl as the cluster's admin."""

    def reach(self, pod: Mapping[str, Any]) -> str:
        """An address of this machine, or one that it reaches, where the pod's ports are."""

    def down(self) -> None:
        """Remove what the tests made for themselves."""


class CurrentCluster:
    """The cluster of the current context, which stays as it is but for the tests' namespaces and node labels."""

    def __init__(self, folder: Path, kubeconfig: Path) -> None:
        """
        Raises:
            FileNotFoundError: kubectl or helm is not on PATH.
            RuntimeError: the cluster does not answer, or has not the nodes that the tests name.
        """
        self.folder, self.kubeconfig = folder, kubeconfig
        self._forwards: dict[str, tuple[str, subprocess.Popen[bytes]]] = {}
        (folder / "bin").mkdir(parents=True)
        for program in ("kubectl", "helm"):
            (folder / "bin" / program).symlink_to(_needed(program))
        nodes = {path.removeprefix("node/") for path in self.kubectl("get", "nodes", "-o", "name").split()}
        names = [node.name for node in NODES]
        if missing := sorted(set(names) - nodes):
            raise RuntimeError(f"the cluster has no node {', '.join(missing)}; the tests need {', '.join(names)}")

    def kubectl(self, *arguments: str, document: object = None) -> str:
        text = None if document is None else json.dumps(document)
        return run(str(self.folder / "bin" / "kubectl"), f"--kubeconfig={self.kubeconfig}", *arguments, text=text)

    def reach(self, pod: Mapping[str, Any]) -> str:
        """
        Raises:
            RuntimeError: kubectl cannot forward to it.
        """
        uid, where = pod["metadata"]["uid"], pod["metadata"]
        address, process = self._forwards.get(uid, ("", None))
        if process is None or process.poll() is not None:
            address = address or f"127.77.{len(self._forwards) // 250}.{1 + len(self._forwards) % 250}"
            command = [str(self.folder / "bin" / "kubectl"), f"--kubeconfig={self.kubeconfig}", "port-forward"]
            command += ["-n", where["namespace"], f"--address={address}", f"pod/{where['name']}", *map(str, PORTS)]
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            self._forwards[uid] = (address, process)
            _wait_open(address, process)
        return address

    def down(self) -> None:
        for _, process in self._forwards.values():
            process.terminate()
            process.wait()


class KindCluster(CurrentCluster):
    """A cluster of one server and three workers that kind makes, with the edge image of this repository."""

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            FileNotFoundError: kind, kubectl, helm, or both docker and podman are not on PATH.
            RuntimeError: one of them failed.
        """
        kind, engine = _needed("kind"), shutil.which("docker") or _needed("podman")
        folder.mkdir(parents=True, exist_ok=True)
        kubeconfig = folder / "kubeconfig"
        (folder / "kind.json").write_text(json.dumps(_kind_cluster()))
        run(engine, "build", "--tag", EDGE_IMAGE, "--file", str(CONTAINERFILE), str(REPOSITORY))
        run(kind, "delete", "cluster", "--name", KIND)
        command = [kind, "create", "cluster", "--name", KIND, "--wait", "180s", "--kubeconfig", str(kubeconfig)]
        run(*command, "--image", KIND_NODE, "--config", str(folder / "kind.json"))
        self._kind = kind
        archive = folder / "edge.tar"
        run(engine, "save", "--output", str(archive), EDGE_IMAGE)
        run(kind, "load", "image-archive", str(archive), "--name", KIND)
        super().__init__(folder, kubeconfig)

    def down(self) -> None:
        super().down()
        run(self._kind, "delete", "cluster", "--name", KIND)


def _kind_cluster() -> dict[str, Any]:
    names = [{"kind": "JoinConfiguration", "nodeRegistration": {"name": node.name}} for node in NODES]
    workers = [{"role": "worker", "kubeadmConfigPatches": [json.dumps(name)]} for name in names]
    return {"kind": "Cluster", "apiVersion": "kind.x-k8s.io/v1alpha4", "nodes": [{"role": "control-plane"}, *workers]}


def _needed(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        kind = os.environ.get("CLUSTER")
        raise FileNotFoundError(f"CLUSTER={kind} needs {program}, which is not on PATH; install it, or unset CLUSTER")
    return found


def _wait_open(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _FORWARD_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((address, PORTS[0]), timeout=1):
            return
        time.sleep(0.1)
    raise RuntimeError(f"kubectl port-forward does not serve at {address}:{PORTS[0]}")
