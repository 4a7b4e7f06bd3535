"""The default StorageClass: the provisioner that K3s ships, as a process in the `cloud` namespace.

Its volumes are folders on the node. The pods that make and remove them need root and a hostPath, so they have a
Kubernetes namespace of their own.
"""

import json
from pathlib import Path
from typing import Any

from tests.cluster.testbed.network import CLOUD, NODES
from tests.cluster.testbed.processes import Processes, run

NAMESPACE = "local-path-storage"
_ACCOUNT = "local-path-provisioner"
_CONFIG = "local-path-config"
_SETUP = '#!/bin/sh\nset -eu\nmkdir -m 0777 -p "$VOL_DIR"\n'
_TEARDOWN = '#!/bin/sh\nset -eu\nrm -rf "$VOL_DIR"\n'


def start_storage(folder: Path, program: Path, image: str, processes: Processes) -> None:
    """Start the provisioner and make its StorageClass the default; the API server is up.

    Args:
        folder: the testbed's; volumes are below `<node>/volumes`.
        program: local-path-provisioner.
        image: of the pods that make and remove folders; has /bin/sh, `mkdir` and `rm`, and is on every node.
        processes: where it is remembered.
    """
    kubeconfig = folder / "pki" / "admin.kubeconfig"
    documents = folder / "storage.json"
    documents.write_text(json.dumps({"apiVersion": "v1", "kind": "List", "items": _documents(folder, image)}))
    kubectl = [str(folder / "bin" / "kubectl"), f"--kubeconfig={kubeconfig}"]
    run(*kubectl, "apply", "--server-side", "-f", str(documents), namespace=CLOUD)
    command = [str(program), "start", f"--kubeconfig={kubeconfig}", f"--namespace={NAMESPACE}"]
    command += [f"--configmap-name={_CONFIG}", f"--service-account-name={_ACCOUNT}"]
    processes.start("local-path-provisioner", command, namespace=CLOUD)


def _documents(folder: Path, image: str) -> list[dict[str, Any]]:
    places = [{"node": node.name, "paths": [str(folder / node.name / "volumes")]} for node in NODES]
    helper = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "helper-pod"},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "containers": [
                {
                    "name": "helper-pod",
                    "image": image,
                    "imagePullPolicy": "Never",
                    "securityContext": {"runAsUser": 0, "runAsGroup": 0},
                }
            ],
        },
    }
    data = {
        "config.json": json.dumps({"nodePathMap": places}),
        "setup": _SETUP,
        "teardown": _TEARDOWN,
        "helperPod.yaml": json.dumps(helper),
    }
    here = {"namespace": NAMESPACE}
    return [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}},
        {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": _ACCOUNT} | here},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": _CONFIG} | here, "data": data},
        {
            "apiVersion": "storage.k8s.io/v1",
            "kind": "StorageClass",
            "metadata": {
                "name": "local-path",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            },
            "provisioner": "rancher.io/local-path",
            "volumeBindingMode": "WaitForFirstConsumer",
            "reclaimPolicy": "Delete",
        },
    ]
