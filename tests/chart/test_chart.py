"""The chart, rendered by the real helm: what every pod promises, and what wrong values are told."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.rollout.fleet import parse_target
from tests.go_modules import built

ROOT = Path(__file__).resolve().parents[2]
CHART = ROOT / "helm" / "student-edge"
CASES = sorted((CHART / "ci").glob("*-values.yaml"))


@pytest.fixture(scope="session")
def helm() -> str:
    """The pinned helm; built from its Go module when the cache has none."""
    if shutil.which("go") is None:
        pytest.skip("no Go here to build helm with")
    return str(built("helm") / "helm")


def render(helm: str, *options: str) -> "subprocess.CompletedProcess[str]":
    command = [helm, "template", "student-edge", str(CHART), "--kube-version", "1.34.4", *options]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def documents(helm: str, case: Path) -> list[dict[str, Any]]:
    done = render(helm, "-f", str(case))
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def pods(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [document["spec"]["template"]["spec"] for document in found if "template" in document.get("spec", {})]


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_it_lints(helm: str, case: Path) -> None:
    done = subprocess.run([helm, "lint", "--strict", str(CHART), "-f", str(case)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_rendering_twice_gives_the_same(helm: str, case: Path) -> None:
    assert render(helm, "-f", str(case)).stdout == render(helm, "-f", str(case)).stdout


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_every_pod_is_restricted(helm: str, case: Path) -> None:
    found = pods(documents(helm, case))
    assert len(found) >= 2
    for pod in found:
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 65532
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(pod)
        assert not [volume for volume in pod.get("volumes", []) if "hostPath" in volume]
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["limits"]
            assert not container["image"].endswith(":latest")


def test_a_node_gets_no_token(helm: str) -> None:
    daemon = next(one for one in documents(helm, CASES[0]) if one["kind"] == "DaemonSet")
    assert daemon["spec"]["template"]["spec"]["automountServiceAccountToken"] is False
    assert daemon["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_the_controller_may_do_little(helm: str) -> None:
    rules = [
        rule for one in documents(helm, CASES[0]) if one["kind"] in ("Role", "ClusterRole") for rule in one["rules"]
    ]
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
        ("events", "create", ""),
        ("nodes", "list", ""),
    }


@pytest.mark.parametrize("case", CASES, ids=lambda path: path.stem)
def test_the_controller_reads_the_target(helm: str, case: Path) -> None:
    maps = {one["metadata"]["name"]: one["data"] for one in documents(helm, case) if one["kind"] == "ConfigMap"}
    target, selector = parse_target(maps["student-edge-target"]["target.json"])
    wanted = yaml.safe_load(case.read_text())
    assert target.version == wanted["release"]["version"]
    assert selector == wanted.get("nodeSelector", {})
    assert target.waves[0].label == ("edgedistill.dev/wave", "canary")
    assert target.waves[-1].percent == 100


def test_a_new_version_changes_the_target_alone(helm: str) -> None:
    def parts(version: int) -> dict[str, str]:
        done = render(helm, "-f", str(CASES[0]), "--set", f"release.version={version}")
        found = [document for document in yaml.safe_load_all(done.stdout) if document]
        return {f"{one['kind']} {one['metadata']['name']}": json.dumps(one, sort_keys=True) for one in found}

    before, after = parts(1), parts(2)
    assert {name for name in before if before[name] != after[name]} == {"ConfigMap student-edge-target"}


def test_waiting_is_a_hook_that_only_waits(helm: str) -> None:
    jobs = [one for one in documents(helm, CHART / "ci" / "wait-values.yaml") if one["kind"] == "Job"]
    assert len(jobs) == 1
    assert jobs[0]["metadata"]["annotations"]["helm.sh/hook"].startswith("post-install,post-upgrade")
    assert jobs[0]["spec"]["template"]["spec"]["containers"][0]["args"][:2] == ["edge.rollout", "wait"]


@pytest.mark.parametrize(
    ("setting", "where"),
    [
        ("release.version=0", "/release/version"),
        ("release.version=two", "/release/version"),
        ("releases.url=ftp://x", "/releases/url"),
        ("trust.root=nothing", "/trust/root"),
        ("image.tag=latest", "/image/tag"),
        ("rollout.pause=3", "/rollout"),
        ("password=secret", "password"),
        ("rollout.waves=null", "/rollout"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place(helm: str, setting: str, where: str) -> None:
    done = render(helm, "-f", str(CASES[0]), "--set", setting)
    assert done.returncode != 0
    assert where in done.stderr


def test_the_required_values_are_required(helm: str) -> None:
    done = render(helm)
    assert done.returncode != 0
    for where in ("/release/version", "/releases/url", "/trust/root"):
        assert where in done.stderr


def test_the_readme_lists_every_value() -> None:
    text = (CHART / "README.md").read_text()
    for section, values in yaml.safe_load((CHART / "values.yaml").read_text()).items():
        names = [f"{section}.{name}" for name in values] if isinstance(values, dict) and values else [section]
        for name in names:
            assert f"`{name}`" in text, name
