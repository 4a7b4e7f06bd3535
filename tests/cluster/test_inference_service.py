"""A real API server takes the teacher's manifests against KServe's own resource definitions."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cluster.clusters import Cluster
from tests.cluster.conftest import eventually
from tests.cluster.testbed.images import REPOSITORY
from tests.unit.test_inference_service import printed

pytestmark = pytest.mark.cluster

DEFINITIONS = REPOSITORY.parent / "shared" / "crds"


@pytest.fixture(scope="module")
def kserve(cluster: Cluster) -> Iterator[Cluster]:
    """The cluster with KServe's resource definitions."""
    files = sorted(DEFINITIONS.glob("*.yaml"))
    if not files:
        # Not REQUIRE_ALL's business: the definitions are KServe's, and not part of this repository.
        pytest.xfail(f"KServe's resource definitions are not at {DEFINITIONS}")
    for file in files:
        cluster.kubectl("apply", "--server-side", "-f", str(file))
    eventually(lambda: "inferenceservices" in cluster.kubectl("api-resources"), "the definitions are served")
    yield cluster
    for file in files:
        cluster.kubectl("delete", "-f", str(file))


def apply(cluster: Cluster, document: dict[str, Any], folder: Path) -> None:
    """Apply one document; unknown fields are an error."""
    path = folder / "document.yaml"
    path.write_text(yaml.safe_dump(document))
    cluster.kubectl("apply", "--server-side", "--validate=strict", "-f", str(path))


def documents() -> dict[str, dict[str, Any]]:
    return {document["kind"]: document for document in yaml.safe_load_all(printed().stdout)}


def test_the_api_server_takes_runtime_and_service(kserve: Cluster, tmp_path: Path) -> None:
    for document in documents().values():
        apply(kserve, document, tmp_path)
    stored = kserve.kubectl("get", "inferenceservice", "demo-teacher", "-o", "yaml")
    assert yaml.safe_load(stored)["spec"]["predictor"]["model"]["storageUri"].endswith("/abc")


def test_it_refuses_a_field_that_is_not_there(kserve: Cluster, tmp_path: Path) -> None:
    wrong = documents()["InferenceService"]
    wrong["spec"]["predictor"]["model"]["storageUrl"] = "s3://typo"
    with pytest.raises(RuntimeError, match="storageUrl"):
        apply(kserve, wrong, tmp_path)
