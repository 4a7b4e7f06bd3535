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
from pathlib import Path

from tests.cluster.testbed.control_plane import start_control_plane
from tests.cluster.testbed.edge_nodes import (
    CNI_CACHE,
    CNI_NAME,
    READY_S,
    end_containers,
    import_image,
    remove_cgroups,
    remove_pod_networks,
    start_node,
)
from tests.cluster.testbed.images import EDGE_IMAGE, build_images
from tests.cluster.testbed.network import CLOUD, NODES, make_network, remove_network
from tests.cluster.testbed.pki import make_certificates
from tests.cluster.testbed.processes import Processes, run
from tests.cluster.testbed.storage import start_storage
from tests.go_modules import built

STORAGE = Path("/var/tmp/edgedistill-testbed")  # images and logs; /run is memory
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


class Testbed:
    """What is up: where its files are, and how to speak to it."""

    __test__ = False  # not a test class

    def __init__(self) -> None:
        self.folder = STORAGE
        self.processes = Processes(STORAGE)
        self.kubeconfig = STORAGE / "pki" / "admin.kubeconfig"

    def up(self) -> None:
        """Build what is missing and start everything. What an earlier, killed run left is removed first.

        Raises:
            PermissionError: not root.
            FileNotFoundError: a program is missing.
            TimeoutError: a part is not ready in time.
        """
        _check_machine()
        binaries = built("kubernetes")
        helm = built("helm")
        storage = built("storage")
        self.down()
        self.folder.mkdir(parents=True, mode=0o700)
        images = build_images(self.folder / "images")
        (self.folder / "bin").mkdir()
        for program in (*binaries.iterdir(), *helm.iterdir()):
            if os.access(program, os.X_OK):
                (self.folder / "bin" / program.name).symlink_to(program)
        make_network()
        make_certificates(self.folder / "pki", [(node.name, node.address) for node in NODES])
        start_control_plane(self.folder, binaries, self.processes)
        for node in NODES:
            start_node(node, self.folder, binaries, self.processes)
        for node in NODES:
            for archive in images.values():
                import_image(node, self.folder, archive)
        self._wait_nodes()
        start_storage(self.folder, storage / "local-path-provisioner", EDGE_IMAGE, self.processes)

    def down(self) -> None:
        """End every process and remove namespaces, mounts, cgroups and files. Safe to call at any time."""
        for node in NODES:
            for name in ("kubelet", "kube-proxy", "containerd"):
                self.processes.end(f"{name}-{node.name}")
            end_containers(node, self.folder)
        self.processes.end_all()
        _unmount(self.folder)
        remove_pod_networks()
        for node in NODES:
            remove_cgroups(node)
        remove_network()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kubectl(self, *arguments: str, document: object = None) -> str:
        """Run kubectl as the cluster's admin; `document` is what `-f -` reads.

        Raises:
            RuntimeError: kubectl failed; the message is what it said.
        """
        program = str(self.folder / "bin" / "kubectl")
        text = None if document is None else json.dumps(document)
        return run(program, f"--kubeconfig={self.kubeconfig}", *arguments, namespace=CLOUD, text=text)

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
    """What a testbed that is down must not leave."""
    found = [f"namespace {path.name}" for path in Path("/run/netns").glob("edt-*")]
    found += [f"pod namespace {path.name}" for path in Path("/run/netns").glob("cni-*")]
    found += [f"CNI cache {path.name}" for path in CNI_CACHE.glob(f"{CNI_NAME}-*")]
    found += [f"mount {line.split()[4]}" for line in _mounts() if f" {STORAGE}" in line]
    found += [f"cgroup {path}" for path in Path("/sys/fs/cgroup").glob("*/edt-*")]
    ours = str(STORAGE).encode()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if ours in (process / "cmdline").read_bytes():
                found.append(f"process {process.name}")
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


def _mounts() -> list[str]:
    return Path("/proc/self/mountinfo").read_text().splitlines()


def _unmount(folder: Path) -> None:
    points = [line.split()[4] for line in _mounts()]
    for point in sorted((p for p in points if p.startswith(f"{folder}/")), key=len, reverse=True):
        subprocess.run(["umount", "--lazy", point], check=False, capture_output=True)


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
