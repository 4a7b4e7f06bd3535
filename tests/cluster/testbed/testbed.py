"""Bring the testbed up and down.

python -m tests.cluster.testbed up|down      (root; a minute when everything is built)
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.cluster.testbed.control_plane import start_control_plane, wait_ready
from tests.cluster.testbed.edge_nodes import (
    CGROUPS,
    CNI_CACHE,
    CNI_NAME,
    READY_S,
    end_containers,
    import_image,
    log_links,
    remove_cgroups,
    remove_pod_networks,
    remove_sockets,
    start_node,
)
from tests.cluster.testbed.images import EDGE_IMAGE, build_images
from tests.cluster.testbed.minio import ReleaseStore, start_minio, start_pipeline_runs
from tests.cluster.testbed.network import CLOUD, NODES, EdgeNode, make_network, remove_network
from tests.cluster.testbed.pki import make_certificates
from tests.cluster.testbed.processes import Processes, run
from tests.cluster.testbed.storage import start_storage
from tests.go_modules import CACHE, built

STORAGE = Path("/var/tmp/edgedistill-testbed")  # images and logs; /run is memory
TESTS = "tests"  # name of pytest among the processes
PROGRAMS = (
    "buildah",
    "conntrack",
    "containerd",
    "debootstrap",
    "etcd",
    "gcc",
    "go",
    "ip",
    "iptables",
    "nsenter",
    "runc",
)


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Print how long a part took."""
    begun = time.monotonic()
    yield
    print(f"testbed: {name}: {time.monotonic() - begun:.0f} s", file=sys.stderr, flush=True)


class Testbed:
    """What is up: where its files are, how to speak to it, and how to take its parts away."""

    __test__ = False  # not a test class

    def __init__(self) -> None:
        self.folder = STORAGE
        self.processes = Processes(STORAGE)
        self.kubeconfig = STORAGE / "pki" / "admin.kubeconfig"
        self.releases = ReleaseStore(STORAGE / "minio")

    def up(self) -> None:
        """Build what is missing and start everything. What an earlier, killed run left is removed first.

        Raises:
            PermissionError: not root.
            FileNotFoundError: a program is missing.
            TimeoutError: a part is not ready in time.
        """
        _check_machine()
        with phase("programs from Go modules"):
            folders = [built(module) for module in ("kubernetes", "helm", "storage", "minio")]
            built("helm3")  # for a test, whose time limit is not meant for a compiler
        with phase("removing what was left"):
            self.down()
        self.folder.mkdir(parents=True, mode=0o700, exist_ok=True)
        (self.folder / "bin").mkdir()
        for program in (program for folder in folders for program in folder.iterdir()):
            if os.access(program, os.X_OK):
                (self.folder / "bin" / program.name).symlink_to(program)
        binaries = self.folder / "bin"
        make_network()
        with phase("MinIO"):
            start_minio(self.folder / "minio", binaries / "minio", self.processes)
            start_pipeline_runs(self.releases, self.processes)
        with phase("images"):
            images = build_images(self.folder / "images")
        with phase("control plane"):
            make_certificates(self.folder / "pki", [(node.name, node.address) for node in NODES])
            start_control_plane(self.folder, binaries, self.processes)
        with phase("nodes"):
            for node in NODES:
                start_node(node, self.folder, binaries, self.processes)
        with phase("images to nodes"), ThreadPoolExecutor(len(NODES)) as pool:
            for done in [pool.submit(self.give_images, node, images) for node in NODES]:
                done.result()
        with phase("ready"):
            self._wait_nodes()
            start_storage(self.folder, binaries / "local-path-provisioner", EDGE_IMAGE, self.processes)

    def give_images(self, node: EdgeNode, archives: Sequence[Path]) -> None:
        """Give a node the images of some archives."""
        for archive in archives:
            import_image(node, self.folder, archive)

    def down(self) -> None:
        """End every process and remove namespaces, mounts, cgroups and files. Safe to call at any time."""
        self.processes.end_session(TESTS)
        for node in NODES:
            for name in ("kubelet", "kube-proxy", "containerd"):
                self.processes.end(f"{name}-{node.name}")
            end_containers(node, self.folder)
        self.processes.end_all()
        remove_pod_networks()
        for node in NODES:
            remove_sockets(node, self.folder)
            remove_cgroups(node)
        for folder in (self.folder, *CACHE.glob("buildah-*")):
            _unmount(folder)
        remove_network()
        for path in log_links(self.folder):
            path.unlink()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kubectl(self, *arguments: str, document: object = None) -> str:
        """Run kubectl as the cluster's admin; `document` is what `-f -` reads.

        Raises:
            RuntimeError: kubectl failed; the message is what it said.
        """
        program = str(self.folder / "bin" / "kubectl")
        text = None if document is None else json.dumps(document)
        return run(program, f"--kubeconfig={self.kubeconfig}", *arguments, namespace=CLOUD, text=text)

    def reach(self, pod: Mapping[str, Any]) -> str:
        """The address of a pod: the cloud has a route to it."""
        return str(pod["status"]["podIP"])

    def stop_api_server(self) -> None:
        """kill -9. Nodes and pods go on; nobody can learn or change anything through it."""
        self.processes.end("kube-apiserver", kill=True)

    def start_api_server(self) -> None:
        """Start it again, with the same data and address, and whoever gave up without it; wait until it is ready.

        Raises:
            TimeoutError: it is not ready in time.
        """
        self.processes.start_again("kube-apiserver")
        wait_ready(self.folder, self.processes)
        for name in ("kube-controller-manager", "kube-scheduler", "local-path-provisioner"):
            if not self.processes.is_running(name):
                self.processes.start_again(name)

    def restart_kubelet(self, node: EdgeNode) -> None:
        """kill -9 a kubelet and start it again, as after a crash; containers go on meanwhile."""
        self.processes.end(f"kubelet-{node.name}", kill=True)
        self.processes.start_again(f"kubelet-{node.name}")

    def _wait_nodes(self) -> None:
        deadline = time.monotonic() + READY_S
        path = '-o=jsonpath={range .items[*]}{.status.conditions[?(@.type=="Ready")].status} {end}'
        while True:
            ready = ""
            with contextlib.suppress(RuntimeError):
                ready = self.kubectl("get", "nodes", path)
            if ready.split() == ["True"] * len(NODES):
                return
            if time.monotonic() > deadline:
                raise TimeoutError(f"nodes are {ready!r}: {self.processes.log_tail(f'kubelet-{NODES[0].name}')}")
            time.sleep(0.5)


def leftovers() -> list[str]:
    """What a testbed that is down must not leave, each as `kind: what`."""
    found = [f"folder: {STORAGE}"] if STORAGE.exists() else []
    found += [f"namespace: {path.name}" for path in Path("/run/netns").glob("edt-*")]
    found += [f"pod network: {path.name}" for path in CNI_CACHE.glob(f"{CNI_NAME}-*")]
    stores = (STORAGE, *CACHE.glob("buildah-*"))
    found += [f"mount: {point}" for point in _mount_points() if any(point.is_relative_to(one) for one in stores)]
    found += [f"cgroup: {path}" for pattern in ("edt-*", "*/edt-*") for path in CGROUPS.glob(pattern)]
    found += [f"pod log: {path}" for path in log_links(STORAGE)]
    return found + [f"process: {pid}" for pid in _processes()]


def _processes() -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_named = str(STORAGE).encode() in (process / "cmdline").read_bytes()
            if is_named or ":/edt-" in (process / "cgroup").read_text():
                found.append(int(process.name))
    return found


def _check_machine() -> None:
    if os.geteuid() != 0:
        raise PermissionError("the testbed makes network namespaces and needs root; run it with sudo")
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        packages = (Path(__file__).parents[1] / "apt.txt").read_text().split()
        raise FileNotFoundError(
            f"programs are missing: {', '.join(missing)}; run: apt-get install -y {' '.join(packages)}"
        )


def _mount_points() -> list[Path]:
    return [Path(line.split()[4]) for line in Path("/proc/self/mountinfo").read_text().splitlines()]


def _unmount(folder: Path) -> None:
    for point in sorted(_mount_points(), key=lambda point: len(point.parts), reverse=True):
        if point.is_relative_to(folder):
            subprocess.run(["umount", "--lazy", str(point)], check=False, capture_output=True)


def main() -> None:
    """`up` leaves it running; `down` removes it."""
    command = sys.argv[1:]
    testbed = Testbed()
    try:
        if command == ["up"]:
            testbed.up()
            print(f"up; speak to it: nsenter --net=/run/netns/{CLOUD} kubectl --kubeconfig={testbed.kubeconfig} ...")
        elif command == ["down"]:
            testbed.down()
        else:
            sys.exit("usage: python -m tests.cluster.testbed up|down")
    except (PermissionError, FileNotFoundError, TimeoutError, RuntimeError) as error:
        sys.exit(f"testbed: {error}")
