"""The chart, rendered by the real helm for each of its features: what every pod promises, what changes with what."""

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.rollout.fleet import parse_target
from tests.chart.rendering import CASES, CHART, case, only, pods, rendered, template

each_case = pytest.mark.parametrize("values", CASES, ids=lambda path: path.stem)


@each_case
def test_it_lints(helm: str, helm3: str, values: Path) -> None:
    for program in (helm, helm3):
        command = [program, "lint", "--strict", str(CHART), "-f", str(values)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout


@each_case
def test_helm_3_and_4_render_the_same_objects_each_time(helm: str, helm3: str, values: Path) -> None:
    assert template(helm, values).stdout == template(helm, values).stdout

    def objects(program: str) -> list[str]:
        return sorted(json.dumps(one, sort_keys=True) for one in rendered(program, values))

    assert objects(helm) == objects(helm3)


@each_case
def test_every_pod_is_restricted(helm: str, values: Path) -> None:
    found = pods(rendered(helm, values))
    assert {"student-edge-node", "student-edge-controller", "student-edge-test"} <= set(found)
    for pod in found.values():
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 65532
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        hosts = [volume["hostPath"]["path"] for volume in pod.get("volumes", []) if "hostPath" in volume]
        is_asked_for = values == case("host-path") and pod is found["student-edge-node"]
        assert hosts == (["/var/lib/edgedistill"] if is_asked_for else [])
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert not container["image"].endswith(":latest")


@each_case
def test_no_pod_but_the_controllers_gets_a_token(helm: str, values: Path) -> None:
    for name, pod in pods(rendered(helm, values)).items():
        if name in ("student-edge-controller", "student-edge-wait"):
            assert pod["serviceAccountName"] == "student-edge-controller"
        else:
            assert pod["automountServiceAccountToken"] is False, name


@each_case
def test_the_controller_reads_the_target(helm: str, values: Path) -> None:
    found = rendered(helm, values)
    text = only(found, "ConfigMap", "student-edge-target")["data"]["target.json"]
    target, selector = parse_target(text)
    wanted = yaml.safe_load(values.read_text())
    assert target.version == wanted["release"]["version"]
    assert selector == wanted.get("nodeSelector", {})
    assert target.waves[0].label == ("edgedistill.dev/wave", "canary")
    assert target.waves[-1].percent == 100
    annotations = only(found, "DaemonSet")["spec"]["template"]["metadata"]["annotations"]
    is_tls = "tlsSecret" in wanted.get("access", {})
    assert annotations == {
        "edgedistill.dev/runtime": json.loads(text)["runtime"],
        "edgedistill.dev/scheme": "https" if is_tls else "http",
    }
    assert json.loads(text)["is_tls"] is is_tls


def test_the_controller_may_do_little(helm: str) -> None:
    found = rendered(helm, CASES[0])
    rules = [rule for one in found if one["kind"] in ("Role", "ClusterRole") for rule in one["rules"]]
    allowed = {
        (resource, verb, name)
        for rule in rules
        for resource in rule["resources"]
        for verb in rule["verbs"]
        for name in rule.get("resourceNames", [""])
    }
    assert allowed == {
        ("configmaps", "get", "student-edge-target"),
        ("configmaps", "get", "student-edge-assignment"),
        ("configmaps", "update", "student-edge-assignment"),
        ("configmaps", "create", ""),
        ("pods", "list", ""),
        ("pods", "delete", ""),
        ("events", "create", ""),
        ("nodes", "list", ""),
    }
    assert only(found, "ClusterRole")["rules"] == [{"apiGroups": [""], "resources": ["nodes"], "verbs": ["list"]}]


def test_two_releases_share_no_cluster_role(helm: str) -> None:
    def names(**where: str) -> set[str]:
        found = rendered(helm, CASES[0], **where)
        return {only(found, kind)["metadata"]["name"] for kind in ("ClusterRole", "ClusterRoleBinding")}

    first, second = names(namespace="a-b", name="c"), names(namespace="a", name="b-c")
    assert not first & second
    bound = only(rendered(helm, CASES[0], namespace="a-b", name="c"), "ClusterRoleBinding")
    assert bound["subjects"] == [{"kind": "ServiceAccount", "name": "c-controller", "namespace": "a-b"}]
    assert bound["roleRef"]["name"] in first


def parts(helm: str, *options: str) -> dict[str, Any]:
    """Kind and name -> object."""
    return {f"{one['kind']} {one['metadata']['name']}": one for one in rendered(helm, case("two-nodes"), *options)}


def test_a_new_version_changes_the_target_alone(helm: str) -> None:
    before, after = parts(helm), parts(helm, "--set", "release.version=7")
    assert {name for name in before if before[name] != after[name]} == {"ConfigMap student-edge-target"}


def runtime(helm: str, *options: str) -> str:
    """What the controller compares the pods with."""
    found = parts(helm, *options)
    value = json.loads(found["ConfigMap student-edge-target"]["data"]["target.json"])["runtime"]
    pod = found["DaemonSet student-edge-node"]["spec"]["template"]
    assert pod["metadata"]["annotations"]["edgedistill.dev/runtime"] == value
    assert isinstance(value, str)
    return value


@pytest.mark.parametrize(
    "setting",
    [
        "image.tag=0.2.0",
        "node.pollSeconds=9",
        "node.resources.limits.memory=1Gi",
        "node.state.size=2Gi",
        "access.tlsSecret=edge-tls",
        "drift.limit=1",
        "node.updateMemory=300",
        "release.name=other",
        "releases.url=https://other.example/releases",
        "releases.caConfigMap=ca",
        "image.pullPolicy=Always",
        "image.pullSecret=registry",
        "nodeSelector.site=north",
    ],
)
def test_what_changes_the_pods_changes_the_runtime(helm: str, setting: str) -> None:
    assert runtime(helm, "--set", setting) != runtime(helm)


def with_root(text: str) -> tuple[str, str]:
    """Options that give another root."""
    return "--set-json", f"trust.root={json.dumps(text)}"


def test_another_root_replaces_the_pods_because_they_read_it_once(helm: str) -> None:
    text = yaml.safe_load(case("two-nodes").read_text())["trust"]["root"]
    other = text.replace('"cd"', '"ce"')
    assert other != text
    assert runtime(helm, *with_root(other)) != runtime(helm)
    assert runtime(helm, *with_root(text + "\n")) == runtime(helm), "the same root, from a file with a last newline"


def test_one_number_in_two_forms_is_the_same_runtime(helm: str) -> None:
    plain = runtime(helm, "--set", "node.pollSeconds=1000000")
    assert runtime(helm, "--set-json", "node.pollSeconds=1e6") == plain != runtime(helm)


@pytest.mark.parametrize(
    "setting",
    [
        "release.version=7",
        "rollout.bakeSeconds=1",
        "rollout.wait=true",
        "controller.resources.limits.memory=1Gi",
        "networkPolicy.enabled=false",
        "feedback.caConfigMap=store-ca",
        "controller.nodeSelector.a=b",
    ],
)
def test_what_leaves_the_pods_as_they_are_leaves_the_runtime(helm: str, setting: str) -> None:
    assert runtime(helm, "--set", setting) == runtime(helm)


def test_names_that_yaml_would_read_as_something_else_stay_names(helm: str) -> None:
    options = ("image.pullSecret", "access.tlsSecret", "access.tokenSecret", "releases.caConfigMap")
    settings = [part for one in options for part in ("--set-string", f"{one}=123")]
    settings += ["--set-string", "node.state.storageClassName=true", "--set-string", "release.name=1"]
    pod = pods(rendered(helm, case("two-nodes"), *settings))["student-edge-node"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    assert pod["imagePullSecrets"] == [{"name": "123"}]
    assert [source["secret"]["name"] for source in volumes["access"]["projected"]["sources"]] == ["123", "123"]
    assert volumes["ca"]["projected"]["sources"][0]["configMap"]["name"] == "123"
    assert volumes["state"]["ephemeral"]["volumeClaimTemplate"]["spec"]["storageClassName"] == "true"
    assert all(isinstance(one, str) for one in pod["containers"][0]["args"])


def test_nodes_are_replaced_by_the_controller_only(helm: str) -> None:
    assert only(rendered(helm, CASES[0]), "DaemonSet")["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_waiting_is_a_hook_that_only_waits_and_says_why(helm: str) -> None:
    job = only(rendered(helm, case("wait")), "Job")
    notes = job["metadata"]["annotations"]
    assert notes["helm.sh/hook"] == "post-install,post-upgrade,post-rollback"
    assert "hook-failed" in notes["helm.sh/hook-output-log-policy"]
    arguments = job["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[:2] == ["edge.rollout", "wait"]
    assert f"--timeout-s={4 * (900 + 60) + 120}" in arguments
    assert job["spec"]["activeDeadlineSeconds"] == 4 * (900 + 60) + 120 + 60
    longer = only(rendered(helm, case("wait"), "--set", "rollout.waitSeconds=9000"), "Job")
    assert longer["spec"]["activeDeadlineSeconds"] == 9060
    assert "--timeout-s=9000" in longer["spec"]["template"]["spec"]["containers"][0]["args"]
    assert "Job" not in {one["kind"] for one in rendered(helm, CASES[0])}


def test_helms_test_asks_the_service_from_a_node_of_the_fleet(helm: str) -> None:
    pod = only(rendered(helm, case("wait")), "Pod")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"
    assert pod["spec"]["nodeSelector"] == {"node-role.kubernetes.io/edge": "true"}
    assert pod["spec"]["restartPolicy"] == "Never"
    arguments = pod["spec"]["containers"][0]["args"]
    assert arguments[:2] == ["edge.rollout", "ask"]
    assert "--url=http://$(STUDENT_EDGE_SERVICE_HOST):8080" in arguments
    tolerant = only(rendered(helm, case("k3s")), "Pod")
    assert (
        tolerant["spec"]["tolerations"]
        == only(rendered(helm, case("k3s")), "DaemonSet")["spec"]["template"]["spec"]["tolerations"]
    )
