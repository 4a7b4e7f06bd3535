"""The teacher's manifests, as the command prints them (kserve and tritonclient cannot share a process)."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
URI = "s3://edgedistill/teachers/demo-teacher/abc"


def printed(name: str = "demo-teacher", uri: str = URI) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-W", "ignore", "-m", "serving.inference_service"]
    command += ["--name", name, "--storage-uri", uri, "--service-account", "teacher"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def documents() -> dict[str, dict[str, Any]]:
    """Kind -> document."""
    done = printed()
    assert done.returncode == 0, done.stderr
    return {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}


def test_the_committed_runtime_is_what_the_code_gives(documents: dict[str, dict[str, Any]]) -> None:
    committed = yaml.safe_load((ROOT / "manifests" / "kserve" / "serving-runtime.yaml").read_text())
    committed["metadata"]["namespace"] = "default"
    assert documents["ServingRuntime"] == committed


def test_the_runtime_runs_without_rights(documents: dict[str, dict[str, Any]]) -> None:
    container = documents["ServingRuntime"]["spec"]["containers"][0]
    security = container["securityContext"]
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not container["image"].endswith("latest")


def test_both_ports_are_named_or_the_service_would_have_one(documents: dict[str, dict[str, Any]]) -> None:
    model = documents["InferenceService"]["spec"]["predictor"]["model"]
    assert {port["name"]: port["containerPort"] for port in model["ports"]} == {"http1": 8080, "h2c": 9000}
    annotations = documents["InferenceService"]["metadata"]["annotations"]
    assert annotations["serving.kserve.io/deploymentMode"] == "Standard"


@pytest.mark.parametrize(
    ("name", "uri", "said"),
    [("demo", "file:///x", "file:///x"), ("Demo_1", URI, "DNS label"), ("a-", URI, "DNS label")],
)
def test_wrong_values_are_told(name: str, uri: str, said: str) -> None:
    done = printed(name, uri)
    assert done.returncode != 0
    assert said in done.stderr
    assert not done.stdout
