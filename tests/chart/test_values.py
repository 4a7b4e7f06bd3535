"""Wrong values are refused before anything changes, in a sentence that says what was given and what to do."""

import json
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART, case, leaves, template

KEY = "-----BEGIN PRIVATE KEY-----"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        # By the schema: the place, and what it wants there.
        ("release.version=two", "at '/release/version': got string, want integer"),
        ("rollout.bakeSeconds=-1", "at '/rollout/bakeSeconds': minimum: got -1, want 0"),
        ("rollout.silenceSeconds=-1", "at '/rollout/silenceSeconds': exclusiveMinimum: got -1, want 0"),
        ("rollout.waitSeconds=-5", "at '/rollout/waitSeconds': minimum: got -5, want 0"),
        ("node.pollSeconds=0", "at '/node/pollSeconds': minimum: got 0, want 0.2"),
        ("rollout.failurePercent=101", "at '/rollout/failurePercent': maximum: got 101, want 100"),
        ("rollout.waves=null", "at '/rollout': missing property 'waves'"),
        ("rollout.pause=3", "at '/rollout': additional properties 'pause' not allowed"),
        ("node.stateSize=1Gi", "at '/node': additional properties 'stateSize' not allowed"),
        ("password=secret", "at '': additional properties 'password' not allowed"),
        ("access.token=secret", "at '/access': additional properties 'token' not allowed"),
        ("feedback.secretKey=secret", "at '/feedback': additional properties 'secretKey' not allowed"),
        ("image.digest=sha256:12", "at '/image/digest': 'sha256:12' does not match pattern '^(sha256:[0-9a-f]{64})?$'"),
        ("access.tlsSecret=A_B", "at '/access/tlsSecret': 'A_B' does not match pattern"),
        ("service.type=LoadBalancer", "at '/service/type': value must be one of 'ClusterIP', 'NodePort'"),
        ("networkPolicy.origin={store}", "at '/networkPolicy/origin/0': got string, want object"),
        ("networkPolicy.originPort=70000", "at '/networkPolicy/originPort': maximum: got 70,000, want 65,535"),
        ("networkPolicy.clients[0].namespace=x", "additional properties 'namespace' not allowed"),
        # By the chart: a sentence.
        ("release.version=0", "release.version is 0: expected the number of a published release"),
        ("releases.url=ftp://x", 'releases.url is "ftp://x": expected the http(s) address of the folder'),
        ("releases.url=https://user:pass@host/x", "releases.url holds a user or a password"),
        ("trust.root=", "trust.root is empty: the nodes would have nobody to believe; give the public 1.root.json"),
        ("trust.root=nothing", "trust.root is no root of signed releases"),
        (f"trust.root={KEY}", "trust.root holds a private key, which belongs to no cluster"),
        ("image.tag=latest", "image.tag is latest: nobody could say which image a node runs"),
        ("image.repository=a/b:1", 'image.repository is "a/b:1": expected a name without tag and digest'),
        ("rollout.waves[0].percent=3", "rollout.waves: wave 1 must have either a label or a percent"),
        ("rollout.waves[1].percent=50", "the last wave takes every node that is left and has to say so"),
        ("rollout.deadlineSeconds=100", "rollout.deadlineSeconds is 100, not more than rollout.silenceSeconds (120)"),
        ("rollout.waitSeconds=10", "2 waves of deadlineSeconds 900 and bakeSeconds 5 can take 1930"),
        ("access.tokenSecret=t", "access.tokenSecret is given without access.tlsSecret"),
        ("service.type=NodePort", "service.type is NodePort without access.tokenSecret and access.tlsSecret"),
        ("service.type=NodePort", "networkPolicy.clients names nobody outside the cluster"),
        ("service.nodePorts.http=30080", "service.nodePorts is given, but service.type is ClusterIP"),
        ("releases.url=http://h:99999/x", 'releases.url is "http://h:99999/x": a port is at most 65535'),
        ("node.state.hostPath=state", 'node.state.hostPath is "state": expected the absolute path'),
        (
            "feedback.target=/data,feedback.endpoint=https://s,feedback.credentialsSecret=x",
            'feedback.target is "/data"',
        ),
        (
            "feedback.target=s3://b,feedback.credentialsSecret=x",
            'feedback.endpoint is "": expected the http(s) address',
        ),
        ("feedback.target=s3://b,feedback.endpoint=https://s", "feedback.credentialsSecret is empty: name a Secret"),
        ("feedback.endpoint=https://key:secret@s3", "holds a user or a password: give them in a Secret"),
    ],
)
def test_a_wrong_value_is_refused_in_a_sentence(helm: str, settings: str, told: str) -> None:
    done = template(helm, case("two-nodes"), "--set", settings)
    assert done.returncode != 0
    assert told in done.stderr
    for secret in ("user:pass", "key:secret", KEY):
        assert secret not in done.stderr, "it repeats the secret"


@pytest.mark.parametrize(
    ("root", "told"),
    [
        ({"signatures": [], "signed": {"_type": "root"}}, "trust.root is no root of signed releases"),
        ({"signatures": [1], "signed": "root"}, "trust.root is no root of signed releases"),
        ({"signatures": [1], "signed": {"_type": "root", "keys": {}}}, "trust.root is signed, but no root with keys"),
        ({"signatures": [1], "signed": {"_type": "targets", "keys": {"a": {}}}}, 'its _type is "targets"'),
    ],
)
def test_a_placeholder_is_no_root(helm: str, root: dict[str, Any], told: str) -> None:
    done = template(helm, case("two-nodes"), "--set-json", f"trust.root={json.dumps(json.dumps(root))}")
    assert told in done.stderr


def test_two_ports_of_a_node_are_two(helm: str) -> None:
    same = template(helm, case("nodeport"), "--set", "service.nodePorts.grpc=30080")
    assert "service.nodePorts.http and service.nodePorts.grpc are both 30080" in same.stderr
    assert template(helm, case("nodeport"), "--set", "service.nodePorts.grpc=30081").returncode == 0


@pytest.mark.parametrize("target", ["s3://UPPER", "s3://b", "s3://bucket/a b", "s3://bucket/x#y"])
def test_a_bucket_that_no_node_would_take_is_refused(helm: str, target: str) -> None:
    assert "feedback.target is" in template(helm, case("feedback"), "--set", f"feedback.target={target}").stderr


def test_what_an_older_charts_values_lack_is_named(helm: str) -> None:
    """`helm upgrade --reuse-values` gives a newer chart the older one's defaults: it fails before anything changes."""
    done = template(helm, case("two-nodes"), "--set", "node.updateMemory=null")
    assert "at '/node': missing property 'updateMemory'" in done.stderr


def test_percentages_must_rise(helm: str) -> None:
    waves = [{"percent": 50}, {"percent": 10}, {"percent": 100}]
    done = template(helm, case("two-nodes"), "--set-json", f"rollout.waves={json.dumps(waves)}")
    assert "rollout.waves: wave 2 takes 10 percent and an earlier one 50" in done.stderr
    waves[1]["percent"] = 60
    assert template(helm, case("two-nodes"), "--set-json", f"rollout.waves={json.dumps(waves)}").returncode == 0


def test_the_required_values_are_required_all_at_once(helm: str) -> None:
    done = template(helm, None)
    assert done.returncode != 0
    for name in ("release.version", "releases.url", "trust.root"):
        assert f"\n{name} is " in done.stderr


@pytest.mark.parametrize("name", ["1edge", "edge.north"])
def test_a_name_that_no_service_can_have_is_refused(helm: str, name: str) -> None:
    done = template(helm, case("two-nodes"), name=name)
    assert f'the chart\'s release is called "{name}"' in done.stderr


def test_helm_3_says_the_same(helm: str, helm3: str) -> None:
    for setting in ("trust.root=", "rollout.waitSeconds=10"):
        said = [template(one, case("two-nodes"), "--set", setting).stderr.splitlines() for one in (helm, helm3)]
        sentence = [line for line in said[0] if line.startswith(setting.partition("=")[0])]
        assert sentence
        assert sentence[0] in said[1]


def schema_of(path: str) -> Any:
    """What the schema says of one value."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    found = schema
    for part in path.split("."):
        assert found["additionalProperties"] is False, f"unknown keys beside {path} would pass"
        assert part in found["required"], f"{path} could be taken away"
        found = found["properties"][part]
    return found


@pytest.mark.parametrize("path", leaves(yaml.safe_load((CHART / "values.yaml").read_text())))
def test_the_schema_knows_every_value(path: str) -> None:
    assert set(schema_of(path)) & {"type", "enum", "$ref"}


def test_the_schema_knows_no_other_value() -> None:
    def names(schema: dict[str, Any], above: str = "") -> set[str]:
        found = set()
        for key, value in schema["properties"].items():
            path = f"{above}.{key}" if above else key
            found |= names(value, path) if "properties" in value else {path}
        return found

    schema = json.loads((CHART / "values.schema.json").read_text())
    assert names(schema) - {"global"} == set(leaves(yaml.safe_load((CHART / "values.yaml").read_text())))


def test_every_value_has_a_comment() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    for number, line in enumerate(lines):
        name, colon, rest = line.strip().partition(":")
        is_value = colon and not name.startswith(("#", "-")) and rest.strip() and not rest.strip().startswith("#")
        if is_value and name not in ("requests", "limits", "podSelector"):
            assert "#" in rest or lines[number - 1].strip().startswith("#"), line
