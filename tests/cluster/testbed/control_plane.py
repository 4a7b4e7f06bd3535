"""etcd, API server, controller manager and scheduler in the `cloud` namespace."""

import time
from pathlib import Path

from tests.cluster.testbed.network import CLOUD, CLOUD_ADDRESS, POD_RANGE, SERVICES
from tests.cluster.testbed.processes import Processes, run

READY_S = 90


def start_control_plane(folder: Path, binaries: Path, processes: Processes) -> None:
    """Start it and wait until the API server is ready.

    Raises:
        TimeoutError: it is not ready in time; the message holds the end of its log.
    """
    pki = folder / "pki"
    etcd = ["etcd", f"--data-dir={folder / 'etcd'}", "--unsafe-no-fsync"]
    etcd += ["--listen-client-urls=http://127.0.0.1:2379", "--advertise-client-urls=http://127.0.0.1:2379"]
    etcd += ["--listen-peer-urls=http://127.0.0.1:2380", "--logger=zap"]
    processes.start("etcd", etcd, namespace=CLOUD)
    processes.start("kube-apiserver", [str(binaries / "kube-apiserver"), *_api_server(pki)], namespace=CLOUD)
    wait_ready(folder, processes)
    manager = [f"--kubeconfig={pki / 'controller-manager.kubeconfig'}", "--use-service-account-credentials=true"]
    manager += [f"--service-account-private-key-file={pki / 'accounts.key'}", f"--root-ca-file={pki / 'ca.crt'}"]
    manager += ["--leader-elect=false", f"--cluster-cidr={POD_RANGE}", "--node-monitor-grace-period=20s"]
    manager += ["--node-monitor-period=2s"]
    command = [str(binaries / "kube-controller-manager"), *manager]
    processes.start("kube-controller-manager", command, namespace=CLOUD)
    scheduler = [f"--kubeconfig={pki / 'scheduler.kubeconfig'}", "--leader-elect=false"]
    processes.start("kube-scheduler", [str(binaries / "kube-scheduler"), *scheduler], namespace=CLOUD)


def _api_server(pki: Path) -> list[str]:
    return [
        "--etcd-servers=http://127.0.0.1:2379",
        f"--advertise-address={CLOUD_ADDRESS}",
        f"--bind-address={CLOUD_ADDRESS}",
        f"--service-cluster-ip-range={SERVICES}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={pki / 'ca.crt'}",
        f"--tls-cert-file={pki / 'apiserver.crt'}",
        f"--tls-private-key-file={pki / 'apiserver.key'}",
        f"--kubelet-certificate-authority={pki / 'ca.crt'}",
        f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
        f"--kubelet-client-key={pki / 'kubelet-client.key'}",
        "--kubelet-preferred-address-types=InternalIP",
        f"--service-account-key-file={pki / 'accounts.pub'}",
        f"--service-account-signing-key-file={pki / 'accounts.key'}",
        "--service-account-issuer=https://kubernetes.default.svc",
    ]


def wait_ready(folder: Path, processes: Processes) -> None:
    """Wait until the API server says that it is ready.

    Raises:
        TimeoutError: it does not within READY_S; the message holds the end of its log.
    """
    deadline = time.monotonic() + READY_S
    kubectl = [str(folder / "bin" / "kubectl"), f"--kubeconfig={folder / 'pki' / 'admin.kubeconfig'}"]
    while True:
        try:
            run(*kubectl, "--request-timeout=5s", "get", "--raw=/readyz", namespace=CLOUD)
            return
        except RuntimeError as error:
            if time.monotonic() > deadline or not processes.is_running("kube-apiserver"):
                tail = processes.log_tail("kube-apiserver")
                raise TimeoutError(f"the API server is not ready after {READY_S} s: {error}\n{tail}") from error
        time.sleep(0.5)
