"""An edge node: containerd, kubelet and kube-proxy in a namespace of its own."""

import contextlib
import json
import os
import signal
import time
from pathlib import Path

import yaml

from tests.cluster.testbed.network import POD_RANGE, EdgeNode
from tests.cluster.testbed.processes import Processes, run

CGROUPS = Path("/sys/fs/cgroup")
CNI_CACHE = Path("/var/lib/cni/results")  # libcni's own; no setting moves it
CNI_NAME = "edgedistill-testbed"
LOG_LINKS = Path("/var/log/containers")  # the kubelet's own; no setting moves it
SHIM_SOCKETS = Path("/run/containerd/s")  # containerd's own; no setting moves it
PAUSE = "localhost/pause:1"
READY_S = 120


def start_node(node: EdgeNode, folder: Path, binaries: Path, processes: Processes) -> None:
    """Start a node's processes; the control plane is up."""
    home = folder / node.name
    (home / "cni").mkdir(parents=True)
    _make_cgroups(node)
    (home / "cni" / "10-bridge.conflist").write_text(json.dumps(_cni(node, home)))
    (home / "containerd.toml").write_text(_containerd(home))
    (home / "kubelet.yaml").write_text(yaml.safe_dump(_kubelet(node, folder / "pki")))
    proxy = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "iptables",
        "clusterCIDR": POD_RANGE,
        "hostnameOverride": node.name,
        "conntrack": {"maxPerCore": 0},
        "clientConnection": {"kubeconfig": str(folder / "pki" / "proxy.kubeconfig")},
    }
    (home / "proxy.yaml").write_text(yaml.safe_dump(proxy))
    start_containerd(node, folder, processes)
    start_kubelet(node, folder, binaries, processes)
    command = [str(binaries / "kube-proxy"), f"--config={home / 'proxy.yaml'}"]
    processes.start(f"kube-proxy-{node.name}", command, namespace=node.namespace)


def start_containerd(node: EdgeNode, folder: Path, processes: Processes) -> None:
    """Start the container runtime and wait for its socket."""
    command = ["containerd", f"--config={folder / node.name / 'containerd.toml'}"]
    processes.start(f"containerd-{node.name}", command, namespace=node.namespace)
    deadline = time.monotonic() + 30
    while True:
        with contextlib.suppress(RuntimeError):
            run("ctr", "-a", str(socket(node, folder)), "version")
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"containerd is not there: {processes.log_tail(f'containerd-{node.name}')}")
        time.sleep(0.2)


def start_kubelet(node: EdgeNode, folder: Path, binaries: Path, processes: Processes) -> None:
    """Start the kubelet; it registers the node."""
    home = folder / node.name
    command = [str(binaries / "kubelet"), f"--config={home / 'kubelet.yaml'}", f"--root-dir={home / 'kubelet'}"]
    command += [f"--kubeconfig={folder / 'pki' / f'{node.name}.kubeconfig'}", f"--hostname-override={node.name}"]
    command += [f"--node-ip={node.address}", f"--cert-dir={home / 'kubelet-pki'}"]
    processes.start(f"kubelet-{node.name}", command, namespace=node.namespace)


def import_image(node: EdgeNode, folder: Path, archive: Path) -> None:
    """Give a node an image; there is no registry."""
    run("ctr", "-a", str(socket(node, folder)), "-n", "k8s.io", "image", "import", str(archive))


def socket(node: EdgeNode, folder: Path) -> Path:
    """containerd's."""
    return folder / node.name / "containerd.sock"


def end_containers(node: EdgeNode, folder: Path) -> None:
    """Kill what runs in the node's containers, and the shims, which outlive containerd."""
    for pid in _pids_of(node, folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while _pids_of(node, folder) and time.monotonic() < deadline:
        time.sleep(0.1)


def remove_pod_networks() -> None:
    """Forget the networks of pods that were killed; libcni remembers which ones are ours."""
    for path in CNI_CACHE.glob(f"{CNI_NAME}-*"):
        with contextlib.suppress(ValueError, KeyError):  # torn when it was written
            for result in CNI_CACHE.glob(f"*-{json.loads(path.read_text())['containerId']}-*"):
                result.unlink()
        path.unlink(missing_ok=True)


def remove_sockets(node: EdgeNode, folder: Path) -> None:
    """Remove the sockets of shims that were killed; each is named in its container's folder."""
    for address in (folder / node.name / "containerd-state").glob("*/k8s.io/*/address"):
        socket = Path(address.read_text().removeprefix("unix://"))
        if socket.parent == SHIM_SOCKETS:
            socket.unlink(missing_ok=True)


def log_links(folder: Path) -> list[Path]:
    """The kubelets' links to logs of containers, those that point into a folder."""
    return [path for path in LOG_LINKS.glob("*") if path.is_symlink() and path.readlink().is_relative_to(folder)]


def remove_cgroups(node: EdgeNode) -> None:
    """Remove the node's folder in every hierarchy, deepest first."""
    for root in _hierarchies():
        folder = root / node.namespace
        for path in sorted(folder.rglob("*"), key=lambda p: len(p.parts), reverse=True) if folder.exists() else []:
            if path.is_dir():
                with contextlib.suppress(OSError):
                    path.rmdir()
        with contextlib.suppress(OSError):
            folder.rmdir()


def _pids_of(node: EdgeNode, folder: Path) -> list[int]:
    ours = str(folder / node.name).encode()
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (process / "cmdline").read_bytes()
            is_shim = b"containerd-shim" in command and ours in command
            if is_shim or f"/{node.namespace}/" in (process / "cgroup").read_text():
                found.append(int(process.name))
    return found


def _hierarchies() -> list[Path]:
    """The mount of each cgroup hierarchy: one with version 2, several with version 1."""
    if (CGROUPS / "cgroup.controllers").exists():
        return [CGROUPS]
    return [path for path in CGROUPS.iterdir() if path.is_dir() and not path.is_symlink()]


def _make_cgroups(node: EdgeNode) -> None:
    for root in _hierarchies():
        (root / node.namespace).mkdir(exist_ok=True)
    cpuset = CGROUPS / "cpuset"
    for name in ("cpuset.cpus", "cpuset.mems") if cpuset.exists() else ():
        (cpuset / node.namespace / name).write_text((cpuset / name).read_text())


def _cni(node: EdgeNode, home: Path) -> dict[str, object]:
    ipam = {
        "type": "host-local",
        "ranges": [[{"subnet": node.pods}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": str(home / "cni-state"),
    }
    bridge = {"type": "bridge", "bridge": "cni0", "isGateway": True, "ipMasq": False, "ipam": ipam}
    return {
        "cniVersion": "0.4.0",
        "name": CNI_NAME,
        "plugins": [bridge, {"type": "portmap", "capabilities": {"portMappings": True}}],
    }


def _containerd(home: Path) -> str:
    return f"""version = 2
root = "{home}/containerd"
state = "{home}/containerd-state"
[grpc]
  address = "{home}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  # Lowering the score is not always permitted to a root inside a sandbox.
  restrict_oom_score_adj = true
  # Pods' network namespaces are below `state`, not in /run/netns, where nobody would know whose they are.
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        Root = "{home}/runc"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{home}/cni"
"""


def _kubelet(node: EdgeNode, pki: Path) -> dict[str, object]:
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "containerRuntimeEndpoint": f"unix://{pki.parent / node.name / 'containerd.sock'}",
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": False},
            "x509": {"clientCAFile": str(pki / "ca.crt")},
        },
        "authorization": {"mode": "AlwaysAllow"},
        "tlsCertFile": str(pki / f"{node.name}.crt"),
        "tlsPrivateKeyFile": str(pki / f"{node.name}.key"),
        "address": node.address,
        "healthzBindAddress": "127.0.0.1",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{node.namespace}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "localStorageCapacityIsolation": False,
        "enforceNodeAllocatable": [],
        "registerWithTaints": [],
        "syncFrequency": "5s",  # how soon a pod sees a changed ConfigMap; a minute by default
        "nodeStatusUpdateFrequency": "3s",
        "nodeLeaseDurationSeconds": 10,
        "resolvConf": "",
        "podLogsDir": str(pki.parent / node.name / "pod-logs"),
        "imageGCHighThresholdPercent": 100,
        "evictionHard": {"memory.available": "50Mi"},
        "shutdownGracePeriod": "0s",
    }
