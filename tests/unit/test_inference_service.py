"""The teacher's manifests: what they promise, and that the committed copy is what the code gives."""

from pathlib import Path

import pytest
import yaml

from edgedistill.errors import ConfigError
from serving.inference_service import grpc_url, inference_service, serving_runtime

ROOT = Path(__file__).resolve().parents[2]
URI = "s3://edgedistill/teachers/demo-teacher/abc"


def test_the_committed_runtime_is_what_the_code_gives() -> None:
    expected = serving_runtime("default")
    del expected["metadata"]["namespace"]
    assert yaml.safe_load((ROOT / "manifests" / "kserve" / "serving-runtime.yaml").read_text()) == expected


def test_the_runtime_runs_without_rights() -> None:
    container = serving_runtime("default")["spec"]["containers"][0]
    security = container["securityContext"]
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not container["image"].endswith("latest")


def test_both_ports_are_named_or_the_service_would_have_one() -> None:
    document = inference_service("demo-teacher", "default", storage_uri=URI, service_account="teacher")
    model = document["spec"]["predictor"]["model"]
    assert {port["name"]: port["containerPort"] for port in model["ports"]} == {"http1": 8080, "h2c": 9000}
    assert document["metadata"]["annotations"]["serving.kserve.io/deploymentMode"] == "Standard"
    assert grpc_url("demo-teacher", "default") == "demo-teacher-predictor.default.svc:9000"


@pytest.mark.parametrize(
    ("name", "uri", "said"), [("demo", "file:///x", "file:///x"), ("Demo_1", URI, "DNS label"), ("", URI, "DNS label")]
)
def test_wrong_values_are_told(name: str, uri: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        inference_service(name, "default", storage_uri=uri, service_account="teacher")
