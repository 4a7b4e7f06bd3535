"""What the chart's pods and accounts may do on a live cluster, and what no object of theirs holds."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.clusters import Cluster
from tests.cluster.fleet import CHART, Fleet, namespace

pytestmark = pytest.mark.cluster
CASES = sorted((CHART / "ci").glob("*-values.yaml"))
SECRET = re.compile(r"PRIVATE|password|token|\beyJ[\w-]{8,}\.|aws_|access[-_]key", re.IGNORECASE)
RULE = re.compile(r"^(\S*)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]$")
Rules = dict[tuple[str, str], set[str]]  # (resource, name of one object or empty) -> verbs


def allowed(cluster: Cluster, space: str, account: str) -> Rules:
    """What `kubectl auth can-i --list` says that an account may do in its namespace."""
    text = cluster.kubectl("auth", "can-i", "--list", "-n", space, f"--as=system:serviceaccount:{space}:{account}")
    rules: Rules = {}
    for match in filter(None, map(RULE.match, text.splitlines())):
        resource, _, names, verbs = match.groups()
        for name in names.split() if names else [""]:
            if resource:
                rules.setdefault((resource, name), set()).update(verbs.split())
    return rules


def test_each_account_may_do_what_the_golden_list_says(cluster: Cluster, fleet: Fleet) -> None:
    accounts = json.loads(fleet.kubectl("get", "serviceaccounts", "-o", "json"))["items"]
    assert {one["metadata"]["name"] for one in accounts} == {"default", "student-edge-controller"}
    everybody = allowed(cluster, fleet.namespace, "default")
    assert {resource for resource, _ in everybody} <= {
        "selfsubjectreviews.authentication.k8s.io",
        "selfsubjectaccessreviews.authorization.k8s.io",
        "selfsubjectrulesreviews.authorization.k8s.io",
    }
    found = allowed(cluster, fleet.namespace, "student-edge-controller")
    assert {rule: verbs for rule, verbs in found.items() if rule not in everybody} == {
        ("configmaps", ""): {"create"},
        ("configmaps", "student-edge-target"): {"get"},
        ("configmaps", "student-edge-assignment"): {"get", "update"},
        ("pods", ""): {"list", "delete"},
        ("events", ""): {"create"},
        ("nodes", ""): {"list"},
    }
    elsewhere = allowed(cluster, "kube-system", "student-edge-controller")
    assert elsewhere == everybody, "an account of that name in another namespace"


def test_a_wider_account_would_be_noticed(cluster: Cluster, fleet: Fleet) -> None:
    """Negative control."""
    account = f"--serviceaccount={fleet.namespace}:default"
    fleet.kubectl("create", "role", "wider", "--verb=get", "--resource=secrets")
    fleet.kubectl("create", "rolebinding", "wider", "--role=wider", account)
    try:
        assert ("secrets", "") in allowed(cluster, fleet.namespace, "default")
    finally:
        fleet.kubectl("delete", "rolebinding/wider", "role/wider")


def test_node_pods_have_no_token_and_run_as_nobody(fleet: Fleet) -> None:
    for pod in fleet.pods().values():
        inside = Path("/proc") / str(fleet.process(pod))
        assert not (inside / "root" / "var" / "run" / "secrets").exists()
        status = dict(line.split(":\t", 1) for line in (inside / "status").read_text().splitlines() if ":\t" in line)
        assert set(status["Uid"].split()) == {"65532"}
        assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        mounts = [line.split() for line in (inside / "mounts").read_text().splitlines()]
        assert next(options for _, point, _, options, *_ in mounts if point == "/").startswith("ro,")


def test_the_controller_has_its_token(fleet: Fleet) -> None:
    """Negative control: a token would be seen."""
    (pod,) = fleet.pods("controller").values()
    root = Path("/proc") / str(fleet.process(pod, "edge.rollout")) / "root"
    # /var/run is a link to /run, which must be followed inside the pod's own root.
    assert (root / "run" / "secrets" / "kubernetes.io" / "serviceaccount" / "token").exists()


def test_no_secret_lies_in_values_or_config_maps(fleet: Fleet) -> None:
    values = json.loads(fleet.call("get", "-o", "json").stdout)
    maps = json.loads(fleet.kubectl("get", "configmaps", "-o", "json"))["items"]
    texts = {one["metadata"]["name"]: json.dumps(one.get("data", {})) for one in maps} | {"values": json.dumps(values)}
    assert {"student-edge-target", "student-edge-trust", "student-edge-assignment"} <= set(texts)
    assert not {name: SECRET.findall(text) for name, text in texts.items() if SECRET.search(text)}
    assert SECRET.search(json.dumps({"root.json": "-----BEGIN PRIVATE KEY-----"})), "a key would be seen"


@pytest.fixture(scope="module")
def restricted(cluster: Cluster) -> Iterator[Fleet]:
    """A restricted namespace of its own."""
    found = Fleet(cluster, namespace("dry-run"), {}, cluster.folder / "bin" / "helm")
    found.make_namespace()
    yield found
    cluster.kubectl("delete", "namespace", found.namespace)


def rendered(fleet: Fleet, case: Path) -> list[dict[str, Any]]:
    """The chart's objects with the values of a ci file."""
    command = [str(fleet.helm), "template", fleet.name, str(CHART), "-n", fleet.namespace, "--values", str(case)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def pods_of(documents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods that the objects would make: Pod Security judges pods, not what makes them."""
    pods = []
    for document in documents:
        spec = (
            document["spec"] if document["kind"] == "Pod" else document.get("spec", {}).get("template", {}).get("spec")
        )
        if spec:
            name = f"{document['kind'].lower()}-{document['metadata']['name']}"
            own = {"serviceAccountName": "default", "restartPolicy": "Never"}  # the chart's account is not there
            pods.append({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec | own})
    return pods


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name.removesuffix("-values.yaml"))
def test_the_api_server_takes_every_case_in_a_restricted_namespace(restricted: Fleet, case: Path) -> None:
    documents = rendered(restricted, case)
    pods = pods_of(documents)
    assert len(pods) >= 3
    apply = ["apply", "--server-side", "--dry-run=server", "--validate=strict", "-n", restricted.namespace, "-f", "-"]
    restricted.cluster.kubectl(*apply, document=_list(documents))
    if case.name == "host-path-values.yaml":
        with pytest.raises(RuntimeError, match=r"violates PodSecurity.*hostPath"):
            restricted.cluster.kubectl(*apply, document=_list(pods))
    else:
        restricted.cluster.kubectl(*apply, document=_list(pods))


def _list(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "List", "items": items}
