"""/metrics: each is in the manual, and counts what happened."""

import asyncio
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample
from tritonclient.utils import InferenceServerException

from edge.node.metrics import Metrics
from edge.node.tensors import ProtocolError
from tests.edge.conftest import NodeProcess, Publisher, StartNode, pictures

ROOT = Path(__file__).resolve().parents[2]


def scrape(node: NodeProcess) -> dict[str, float]:
    """`name{label="value"}` -> value."""
    with urllib.request.urlopen(f"http://{node.http}/metrics", timeout=10) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    told = {}
    for sample in (sample for family in families for sample in family.samples):
        labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
        told[f"{sample.name}{{{labels}}}"] = sample.value
    return told


def ask(node: NodeProcess, body: bytes) -> int:
    request = urllib.request.Request(f"http://{node.http}/v2/models/tiny/infer", body)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def body(count: int) -> bytes:
    data = pictures(count)
    image = {"name": "image", "datatype": "UINT8", "shape": list(data.shape), "data": data.ravel().tolist()}
    return json.dumps({"inputs": [image]}).encode()


def test_they_count_what_happened(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    node = start_node()
    node.wait_version(1)
    assert [ask(node, body(1)), ask(node, body(4)), ask(node, b"{}")] == [200, 200, 400]
    client = grpc_client.InferenceServerClient(node.grpc)
    wrong = grpc_client.InferInput("image", [1, 2], "UINT8")
    wrong.set_data_from_numpy(np.zeros((1, 2), np.uint8))
    with pytest.raises(InferenceServerException):
        client.infer("tiny", [wrong])
    client.close()
    publisher.publish(seed=2, change=lambda golden: golden.__setitem__(0, (golden[0][0], [9.0, 9, 9, 9])))
    node.wait(lambda status: bool(status["quarantined"]))
    told = scrape(node)
    assert told["edgedistill_requests_total{outcome=answered,protocol=rest}"] == 2
    assert told["edgedistill_requests_total{outcome=rejected,protocol=rest}"] == 1
    assert told["edgedistill_rejected_total{protocol=rest,reason=bad_json}"] == 1
    assert told["edgedistill_rejected_total{protocol=grpc,reason=bad_shape}"] == 1
    assert told["edgedistill_request_seconds_count{outcome=answered,protocol=rest}"] == 2
    assert told["edgedistill_batch_images_sum{}"] == 5
    assert told["edgedistill_batch_images_bucket{le=1.0}"] == 1
    assert told["edgedistill_queue_images{}"] == 0
    assert told["edgedistill_release_version{}"] == 1
    assert told["edgedistill_swaps_total{}"] == 1
    assert told["edgedistill_refused_releases{reason=wrong_answer}"] == 1
    assert sum(value for name, value in told.items() if name.startswith("edgedistill_state{")) == 1
    assert told["process_resident_memory_bytes{}"] > 1 << 20
    manual = (ROOT / "docs" / "node.md").read_text()
    for name in {re.sub(r"(_bucket|_sum|_count)?\{.*", "", name) for name in told}:
        if name.startswith("edgedistill_") and not name.endswith("_created"):
            assert f"`{name}`" in manual, name


def test_a_client_that_goes_is_no_failure_of_the_node() -> None:
    metrics = Metrics()
    for error in (asyncio.CancelledError(), ProtocolError("inference_failed", "it is not finite", 500)):
        with pytest.raises(type(error)), metrics.request("rest"):
            raise error
    counted = {tuple(one.labels.values()): one.value for one in _samples(metrics, "edgedistill_requests_total")}
    assert counted == {("rest", "abandoned"): 1, ("rest", "failed"): 1}
    assert not _samples(metrics, "edgedistill_rejected_total")


def _samples(metrics: Metrics, name: str) -> list[Sample]:
    return [one for family in metrics.registry.collect() for one in family.samples if one.name == name]
