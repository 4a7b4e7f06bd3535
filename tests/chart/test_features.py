"""What each feature of the chart renders: state, access, service, feedback, where the controller lives."""

import json
from typing import Any

import pytest

from edge.node.__main__ import _parser
from edge.node.access import access_of
from edge.rollout.__main__ import _parser as rollout_parser
from edgedistill.errors import NodeError
from tests.chart.rendering import CASES, case, only, pods, rendered, template


def node(helm: str, name: str) -> dict[str, Any]:
    """The spec of a node's pod."""
    found = pods(rendered(helm, case(name)))["student-edge-node"]
    assert isinstance(found, dict)
    return found


def arguments(pod: dict[str, Any]) -> list[str]:
    """Of its one container, without the module."""
    given = pod["containers"][0]["args"]
    assert isinstance(given, list)
    return given[1:]


def volumes(pod: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By name."""
    return {one["name"]: one for one in pod.get("volumes", [])}


@pytest.mark.parametrize("values", CASES, ids=lambda path: path.stem)
def test_a_node_understands_its_arguments(helm: str, values: Any) -> None:
    given = arguments(pods(rendered(helm, values))["student-edge-node"])
    options = _parser().parse_args(given)
    assert options.listen == "0.0.0.0"
    assert options.version_file.parent.name == "assignment"


@pytest.mark.parametrize("name", ["two-nodes", "tls", "nodeport"])
def test_a_node_takes_the_access_that_it_is_given(helm: str, name: str) -> None:
    given = arguments(node(helm, name))
    options = _parser().parse_args(given)
    assert options.trust_network is (name != "nodeport")
    if name == "two-nodes":
        assert access_of(options).tls is None
    else:  # the files are not here; nothing else is wrong
        with pytest.raises(NodeError, match="/etc/edgedistill/access/"):
            access_of(options)
    options.trust_network = options.tls_cert = None  # the negative control
    with pytest.raises(NodeError, match="would let everybody there ask"):
        access_of(options)


def test_state_is_a_volume_that_the_cluster_makes(helm: str) -> None:
    claim = volumes(node(helm, "two-nodes"))["state"]["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claim == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    own = volumes(node(helm, "storage-class"))
    assert own["state"]["ephemeral"]["volumeClaimTemplate"]["spec"]["storageClassName"] == "local-path"
    assert own["state"]["ephemeral"]["volumeClaimTemplate"]["spec"]["resources"]["requests"]["storage"] == "4Gi"
    assert own["temporary"]["emptyDir"] == {"sizeLimit": "64Mi"}
    assert node(helm, "two-nodes")["securityContext"]["fsGroup"] == 65532


def test_a_folder_of_the_host_must_be_there(helm: str) -> None:
    assert volumes(node(helm, "host-path"))["state"] == {
        "name": "state",
        "hostPath": {"path": "/var/lib/edgedistill", "type": "Directory"},
    }


def test_token_and_certificate_come_from_secrets(helm: str) -> None:
    found = pods(rendered(helm, case("nodeport")))
    pod = found["student-edge-node"]
    access = volumes(pod)["access"]["projected"]
    assert access["defaultMode"] == 0o440
    named = {source["secret"]["name"]: [i["path"] for i in source["secret"]["items"]] for source in access["sources"]}
    assert named == {"edge-tls": ["tls.crt", "tls.key"], "edge-token": ["token"]}
    assert {probe["httpGet"]["scheme"] for probe in probes(pod)} == {"HTTPS"}
    assert {probe["httpGet"]["scheme"] for probe in probes(node(helm, "two-nodes"))} == {"HTTP"}


def probes(pod: dict[str, Any]) -> list[dict[str, Any]]:
    """Of its one container."""
    return [pod["containers"][0][kind] for kind in ("startupProbe", "livenessProbe", "readinessProbe")]


def test_only_nodes_hold_the_private_key(helm: str) -> None:
    for name, pod in pods(rendered(helm, case("nodeport"))).items():
        keys = [item["key"] for volume in pod.get("volumes", []) for item in items(volume)]
        assert ("tls.key" in keys) is (name == "student-edge-node"), name
        if name == "student-edge-test":
            assert sorted(keys) == ["tls.crt", "token"]
            assert "--token-file=/etc/edgedistill/access/token" in arguments(pod)
            assert "--certificate=/etc/edgedistill/access/tls.crt" in arguments(pod)
            assert "--url=https://$(STUDENT_EDGE_SERVICE_HOST):8080" in arguments(pod)


def items(volume: dict[str, Any]) -> list[dict[str, Any]]:
    """The keys of Secrets that a volume shows; one that names none would show them all."""
    secrets = [volume["secret"]] if "secret" in volume else []
    secrets += [source["secret"] for source in volume.get("projected", {}).get("sources", []) if "secret" in source]
    assert all("items" in one for one in secrets)
    return [item for one in secrets for item in one["items"]]


def test_clients_reach_their_own_node(helm: str) -> None:
    service = only(rendered(helm, case("two-nodes")), "Service")["spec"]
    assert (service["type"], service["internalTrafficPolicy"]) == ("ClusterIP", "Local")
    assert {port["port"]: port["targetPort"] for port in service["ports"]} == {8080: "http", 8081: "grpc"}
    outside = only(rendered(helm, case("nodeport")), "Service")["spec"]
    assert (outside["type"], outside["internalTrafficPolicy"]) == ("NodePort", "Local")
    assert outside["externalTrafficPolicy"] == "Local"
    assert [port.get("nodePort") for port in outside["ports"]] == [30080, None]


def test_feedback_is_off_and_its_credentials_stay_in_the_secret(helm: str) -> None:
    assert not [one for one in arguments(node(helm, "two-nodes")) if "feedback" in one or "drift" in one]
    pod = node(helm, "feedback")
    options = _parser().parse_args(arguments(pod))
    assert (options.feedback, options.feedback_margin, options.feedback_per_day) == ("s3://pipeline", 0.1, 20)
    assert options.drift_limit == 0.1
    assert str(options.ca) == "/etc/edgedistill/ca/origin.crt"
    environment = {one["name"].removeprefix("EDGEDISTILL_FEEDBACK_"): one for one in pod["containers"][0]["env"]}
    for name, key in (("ACCESS_KEY", "access-key"), ("SECRET_KEY", "secret-key")):
        assert environment[name]["valueFrom"] == {"secretKeyRef": {"name": "edge-feedback", "key": key}}
    assert environment["ENDPOINT"]["value"] == "https://s3.example:9443"
    assert environment["REGION"]["value"] == "us-east-1"
    assert environment["CA"]["value"] == "/etc/edgedistill/ca/feedback.crt"
    sources = volumes(pod)["ca"]["projected"]["sources"]
    assert [source["configMap"]["items"][0]["path"] for source in sources] == ["origin.crt", "feedback.crt"]


def test_the_controller_can_live_on_the_server(helm: str) -> None:
    pod = pods(rendered(helm, case("k3s")))["student-edge-controller"]
    assert pod["nodeSelector"] == {"node-role.kubernetes.io/control-plane": "true"}
    assert {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists", "effect": "NoSchedule"} in pod[
        "tolerations"
    ]


def test_the_controller_leaves_a_node_that_is_cut_off(helm: str) -> None:
    for name in ("two-nodes", "k3s"):
        pod = pods(rendered(helm, case(name)))["student-edge-controller"]
        left = {one["key"]: one["tolerationSeconds"] for one in pod["tolerations"] if one["effect"] == "NoExecute"}
        assert left == {"node.kubernetes.io/unreachable": 30, "node.kubernetes.io/not-ready": 30}


def test_a_slow_start_is_waited_for(helm: str) -> None:
    startup = probes(node(helm, "two-nodes"))[0]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 600
    assert all(probe["timeoutSeconds"] == 5 for probe in probes(node(helm, "two-nodes")))


def test_an_image_by_digest_from_a_private_registry(helm: str) -> None:
    found = pods(rendered(helm, case("digest")))
    for pod in found.values():
        assert pod["containers"][0]["image"].startswith("registry.example:5000/edgedistill-edge@sha256:")
        assert pod["imagePullSecrets"] == [{"name": "registry"}]


@pytest.mark.parametrize("values", CASES, ids=lambda path: path.stem)
def test_the_rollout_understands_its_arguments(helm: str, values: Any) -> None:
    found = pods(rendered(helm, values, "--set", "rollout.wait=true"))
    for name, command in (("controller", "_run"), ("wait", "_wait"), ("test", "_ask")):
        pod = found[f"student-edge-{name}"]
        assert pod["containers"][0]["args"][0] == "edge.rollout"
        assert rollout_parser().parse_args(arguments(pod)).run.__name__ == command


def test_the_controller_is_watched_and_sees_the_certificate_alone(helm: str) -> None:
    pod = pods(rendered(helm, case("tls")))["student-edge-controller"]
    options = rollout_parser().parse_args(arguments(pod))
    assert (options.listen, options.port) == ("0.0.0.0", 8082)
    assert str(options.node_certificate) == "/etc/edgedistill/node/tls.crt"
    assert [one["key"] for one in items(volumes(pod)["node"])] == ["tls.crt"]
    assert pod["containers"][0]["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert pod["containers"][0]["readinessProbe"]["httpGet"] == {"path": "/healthz", "port": "metrics"}
    assert pod["containers"][0]["ports"] == [{"name": "metrics", "containerPort": 8082}]
    plain = pods(rendered(helm, case("two-nodes")))["student-edge-controller"]
    assert rollout_parser().parse_args(arguments(plain)).node_certificate is None


def test_a_broken_image_leaves_the_old_controller_there(helm: str) -> None:
    spec = only(rendered(helm, case("two-nodes")), "Deployment")["spec"]
    assert spec["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_a_node_and_its_update_fit_the_memory_limit(helm: str) -> None:
    pod = node(helm, "two-nodes")
    limit = pod["containers"][0]["resources"]["limits"]["memory"]
    assert _parser().parse_args(arguments(pod)).update_memory_mb + 350 <= int(limit.removesuffix("Mi"))
    big = {"limits": {"memory": "2Gi"}}
    options = ("--set", "node.updateMemory=1600", "--set-json", f"node.resources={json.dumps(big)}")
    assert template(helm, case("two-nodes"), *options).returncode == 0
