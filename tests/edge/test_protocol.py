"""The v2 protocol as its clients speak it: tritonclient's four and kserve's, against a real node."""

import asyncio
import base64
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.grpc.aio as grpc_aio
import tritonclient.http as http_client
import tritonclient.http.aio as http_aio
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from edgedistill import signing
from edgedistill.images import encode_png
from edgedistill.inference import Student
from edgedistill.storage import open_store
from tests.edge.conftest import CLASSES, SIZE, NodeProcess, Publisher, pictures, tiny_model

LABELS = [f"class-{i}" for i in range(CLASSES)]
KINDS = {"rest": http_client, "grpc": grpc_client}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeProcess]:
    """One node with release 1 for all of these tests."""
    folder = tmp_path_factory.mktemp("protocol")
    store = open_store(folder / "store")
    signing.init_repository(store, folder / "keys")
    publisher = Publisher(folder, store, folder / "keys")
    publisher.publish(seed=1)
    paths = ["--releases", str(publisher.releases), "--root", str(publisher.root), "--state", str(folder / "state")]
    process = NodeProcess([*paths, "--name", "tiny", "--http-port", "0", "--grpc-port", "0"]).start()
    process.wait_version(1)
    yield process
    process.kill()


@pytest.fixture(params=KINDS)
def client(request: pytest.FixtureRequest, node: NodeProcess) -> Iterator[tuple[Any, Any]]:
    """A client and its module."""
    kind = KINDS[request.param]
    made = kind.InferenceServerClient(node.http if request.param == "rest" else node.grpc)
    yield made, kind
    made.close()


def expected() -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Logits and probabilities of the five pictures."""
    logits = Student(tiny_model(1)).logits(pictures(5))
    powers = np.exp(logits.astype(np.float64))
    return logits, powers / powers.sum(axis=1, keepdims=True)


def tensor(kind: Any, images: NDArray[np.uint8]) -> Any:
    made = kind.InferInput("image", list(images.shape), "UINT8")
    made.set_data_from_numpy(images)
    return made


def check_top(answer: Any, k: int) -> None:
    _, probabilities = expected()
    order = np.argsort(-probabilities, axis=1)[:, :k]
    assert answer.as_numpy("label").shape == (5, k)
    told = [[value if isinstance(value, str) else value.decode() for value in row] for row in answer.as_numpy("label")]
    assert told == [[LABELS[i] for i in row] for row in order]
    wanted = np.take_along_axis(probabilities, order, axis=1)
    np.testing.assert_allclose(answer.as_numpy("probability"), wanted, rtol=1e-4, atol=1e-6)


def test_a_parameter_asks_for_labels_and_probabilities(client: tuple[Any, Any]) -> None:
    made, kind = client
    check_top(made.infer("tiny", [tensor(kind, pictures(5))], parameters={"top_k": 3}), 3)
    check_top(made.infer("tiny", [tensor(kind, pictures(5))], parameters={"top_k": 99}), CLASSES)


def test_naming_the_outputs_asks_too(client: tuple[Any, Any]) -> None:
    made, kind = client
    names = [kind.InferRequestedOutput(name) for name in ("probability", "label", "logits")]
    answer = made.infer("tiny", [tensor(kind, pictures(5))], outputs=names)
    check_top(answer, CLASSES)
    np.testing.assert_allclose(answer.as_numpy("logits"), expected()[0], rtol=1e-5, atol=1e-5)


def test_json_outputs(node: NodeProcess) -> None:
    made = http_client.InferenceServerClient(node.http)
    outputs = [http_client.InferRequestedOutput(name, binary_data=False) for name in ("label", "probability")]
    check_top(made.infer("tiny", [tensor(http_client, pictures(5))], outputs=outputs, parameters={"top_k": 2}), 2)
    made.close()


def test_tritons_classification(client: tuple[Any, Any]) -> None:
    made, kind = client
    output = kind.InferRequestedOutput("probability", class_count=1)
    answer = made.infer("tiny", [tensor(kind, pictures(5))], outputs=[output]).as_numpy("probability")
    for row, probabilities in zip(answer, expected()[1], strict=True):
        value, number, label = row[0].decode().split(":")
        assert int(number) == probabilities.argmax()
        assert label == LABELS[int(number)]
        assert float(value) == pytest.approx(probabilities.max(), abs=1e-5)


def test_each_answer_names_its_release(client: tuple[Any, Any], node: NodeProcess) -> None:
    made, kind = client
    answer = made.infer("tiny", [tensor(kind, pictures(1))], request_id="seven")
    digest = node.status()["active"]["digest"]
    if kind is http_client:
        head = answer.get_response()
        assert (head["model_version"], head["id"], head["parameters"]) == ("1", "seven", {"release_digest": digest})
    else:
        head = answer.get_response()
        assert (head.model_version, head.id) == ("1", "seven")
        assert head.parameters["release_digest"].string_param == digest


def test_metadata_tell_names_shapes_and_labels(client: tuple[Any, Any], node: NodeProcess) -> None:
    made, kind = client
    told = made.get_model_metadata("tiny", "1")
    if kind is grpc_client:
        # tritonclient's own messages skip the field; the labels are there for whoever has it.
        assert [one.name for one in told.outputs] == ["logits", "label", "probability"]
        assert json.dumps(LABELS).encode() in told.SerializeToString()
    else:
        assert told["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}]
        assert told["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}
        assert told["parameters"]["labels"] == LABELS
        assert told["parameters"]["release_digest"] == node.status()["active"]["digest"]


def test_index_ready_and_versions(client: tuple[Any, Any], node: NodeProcess) -> None:
    made, kind = client
    index = made.get_model_repository_index()
    one = index.models[0] if kind is grpc_client else index[0]
    name, version, state = (one.name, one.version, one.state) if kind is grpc_client else list(one.values())[:3]
    assert (name, version, state) == ("tiny", "1", "READY")
    assert made.is_model_ready("tiny", "1")
    assert not made.is_model_ready("tiny", "2")
    assert not made.is_model_ready("other")
    images = tensor(kind, pictures(1))
    assert made.infer("tiny", [images], model_version="1").as_numpy("logits").shape == (1, CLASSES)
    with pytest.raises(InferenceServerException, match="this node serves tiny version 1"):
        made.infer("tiny", [images], model_version="2")
    with urllib.request.urlopen(f"http://{node.http}/v2/models", timeout=10) as answer:
        assert json.load(answer)[0]["name"] == "tiny"


@pytest.mark.parametrize(
    ("parameters", "outputs", "message"),
    [
        ({"top_k": 0}, [], "top_k is 0"),
        ({"top_k": True}, [], "top_k is True"),
        ({"top_k": "3"}, [], "top_k is '3'"),
        ({}, ["scores"], "the outputs are"),
        ({}, ["logits", "logits"], "each once"),
    ],
)
def test_what_cannot_be_asked(
    client: tuple[Any, Any], parameters: dict[str, Any], outputs: list[str], message: str
) -> None:
    made, kind = client
    names = [kind.InferRequestedOutput(name) for name in outputs]
    with pytest.raises(InferenceServerException, match=message):
        made.infer("tiny", [tensor(kind, pictures(1))], outputs=names or None, parameters=parameters)


def test_the_asynchronous_clients(node: NodeProcess) -> None:
    async def ask(kind: Any, base: Any, address: str) -> None:
        async with kind.InferenceServerClient(address) as made:
            assert await made.is_server_ready()
            asked = [made.infer("tiny", [tensor(base, pictures(5))], parameters={"top_k": 3}) for _ in range(4)]
            for answer in await asyncio.gather(*asked):
                check_top(answer, 3)

    asyncio.run(ask(http_aio, http_client, node.http))
    asyncio.run(ask(grpc_aio, grpc_client, node.grpc))


_KSERVE = """
import asyncio, base64, json, sys
import numpy as np
from kserve import InferenceRESTClient, InferRequest, InferInput, RESTConfig

async def main(address, path):
    client = InferenceRESTClient(RESTConfig(protocol="v2"))
    base = f"http://{address}"
    assert await client.is_server_live(base) and await client.is_server_ready(base)
    assert await client.is_model_ready(base, "tiny")
    assert not await client.is_model_ready(base, "other")
    images = np.load(path)
    made = []
    for binary in (True, False):
        one = InferInput("image", list(images.shape), "UINT8")
        one.set_data_from_numpy(images, binary_data=binary)
        answer = await client.infer(base, InferRequest("tiny", [one], parameters={"top_k": 2}), model_name="tiny")
        made.append({one.name: list(one.data) for one in answer.outputs})
    print(json.dumps([made, answer.parameters]))
    await client.close()

asyncio.run(main(*sys.argv[1:]))
"""


def test_kserves_client(node: NodeProcess, tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", pictures(5))
    command = [sys.executable, "-W", "ignore", "-c", _KSERVE, node.http, str(tmp_path / "images.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    answers, parameters = json.loads(done.stdout.splitlines()[-1])
    order = np.argsort(-expected()[1], axis=1)[:, :2]
    for answer in answers:
        assert answer["label"] == [LABELS[i] for row in order for i in row]
    assert parameters == {"release_digest": node.status()["active"]["digest"]}


def test_pictures_and_their_labels_in_plain_json(node: NodeProcess) -> None:
    elements = [base64.b64encode(encode_png(image)).decode() for image in pictures(5)]
    image = {"name": "image", "datatype": "BYTES", "shape": [5], "data": elements}
    body = json.dumps({"inputs": [image], "parameters": {"top_k": 1}}).encode()
    request = urllib.request.Request(f"http://{node.http}/v2/models/tiny/infer", body)
    with urllib.request.urlopen(request, timeout=10) as answer:
        outputs = json.load(answer)["outputs"]
    assert outputs[0]["data"] == [LABELS[i] for i in expected()[0].argmax(axis=1)]
