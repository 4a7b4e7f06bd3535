"""A real node process against a real signed repository."""

import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
import tritonclient.http as http_client
from tritonclient.utils import InferenceServerException

from edgedistill.images import encode_png
from edgedistill.inference import Student
from tests.edge.conftest import CLASSES, SIZE, Publisher, StartNode, pictures, tiny_model


def test_serves_what_the_model_says_over_rest_and_grpc(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    node = start_node()
    node.wait_version(1)
    images = pictures(5)
    expected = Student(tiny_model(1)).logits(images)
    encoded = np.array([encode_png(image) for image in images], dtype=np.object_)

    http = http_client.InferenceServerClient(node.http)
    grpc = grpc_client.InferenceServerClient(node.grpc)
    for client, kind in ((http, http_client), (grpc, grpc_client)):
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("tiny")
        for name, data in (("UINT8", images), ("BYTES", encoded)):
            tensor = kind.InferInput("image", list(data.shape), name)
            tensor.set_data_from_numpy(data)
            answer = client.infer("tiny", [tensor], outputs=[kind.InferRequestedOutput("logits")])
            np.testing.assert_allclose(answer.as_numpy("logits"), expected, rtol=1e-5, atol=1e-5)
    text = http_client.InferInput("image", [5, SIZE, SIZE, 3], "UINT8")
    text.set_data_from_numpy(images, binary_data=False)
    plain = http.infer("tiny", [text], outputs=[http_client.InferRequestedOutput("logits", binary_data=False)])
    np.testing.assert_allclose(plain.as_numpy("logits"), expected, rtol=1e-5, atol=1e-5)
    metadata = http.get_model_metadata("tiny")
    assert metadata["inputs"] == [{"name": "image", "datatype": "UINT8", "shape": [-1, SIZE, SIZE, 3]}]
    assert metadata["outputs"][0] == {"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}
    assert metadata["versions"] == ["1"]
    http.close()
    grpc.close()
    assert node.process is not None
    loaded = Path(f"/proc/{node.process.pid}/maps").read_text()
    assert "openvino" in loaded
    assert "tensorflow" not in loaded, "OpenVINO's converter: 6 MB for nothing"


def test_a_wrong_request_is_the_clients_error(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish()
    node = start_node()
    node.wait_version(1)
    http = http_client.InferenceServerClient(node.http)
    grpc = grpc_client.InferenceServerClient(node.grpc)
    for client, kind in ((http, http_client), (grpc, grpc_client)):
        tensor = kind.InferInput("image", [1, SIZE, SIZE + 1, 3], "UINT8")
        tensor.set_data_from_numpy(np.zeros((1, SIZE, SIZE + 1, 3), np.uint8))
        with pytest.raises(InferenceServerException, match="expected UINT8"):
            client.infer("tiny", [tensor])
        junk = kind.InferInput("image", [1], "BYTES")
        junk.set_data_from_numpy(np.array([b"no picture"], dtype=np.object_))
        with pytest.raises(InferenceServerException, match="no JPEG or PNG"):
            client.infer("tiny", [junk])
        with pytest.raises(InferenceServerException, match="no model"):
            client.infer("other", [tensor])
    http.close()
    grpc.close()


def test_switches_under_load_without_a_failed_request(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    node = start_node()
    node.wait_version(1)
    failures: list[str] = []
    versions: list[str] = []
    stop = threading.Event()

    def load() -> None:
        client = http_client.InferenceServerClient(node.http)
        tensor = http_client.InferInput("image", [1, SIZE, SIZE, 3], "UINT8")
        tensor.set_data_from_numpy(pictures(1))
        while not stop.is_set():
            try:
                versions.append(client.infer("tiny", [tensor]).get_response()["model_version"])
            except Exception as error:
                failures.append(repr(error))
        client.close()

    thread = threading.Thread(target=load)
    thread.start()
    for seed in (2, 3):
        publisher.publish(seed=seed)
        node.wait_version(seed)
    while "3" not in versions and not failures:
        thread.join(0.05)
    stop.set()
    thread.join()
    assert not failures
    assert versions == sorted(versions), "a swap never goes back"
    assert set(versions) == {"1", "2", "3"}
    assert node.status()["previous"]["version"] == 2


def test_answers_do_not_wait_for_an_ack() -> None:
    # In a process of its own: the node's protocol code and tritonclient's register the same message names.
    code = "from edge.node.__main__ import _listen; print(_listen('127.0.0.1', 0).proto)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == socket.IPPROTO_TCP, "else asyncio leaves TCP_NODELAY off: 44 ms instead of 1"


def test_without_an_assignment_it_waits_alive_but_not_ready(
    publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    publisher.publish()
    node = start_node("--version-file", str(tmp_path / "absent" / "edge-test"))
    status = node.wait(lambda s: s["state"] == "waiting")
    assert status["active"] is None
    client = http_client.InferenceServerClient(node.http)
    assert client.is_server_live()
    assert not client.is_server_ready()
    client.close()


@pytest.mark.parametrize("root", [(), ("--root", "/absent/root.json")])
def test_no_root_of_trust_is_one_sentence_and_a_failure(root: tuple[str, ...], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge.node", "--releases", "/x", "--state", str(tmp_path), "--name", "tiny", *root]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "root of trust" in ended.stderr
    assert ended.stderr.count("\n") == 1


def test_the_node_imports_nothing_heavy() -> None:
    code = (
        "import edge.node.__main__, sys; heavy = {'torch', 'kfp', 'kserve', 'pandas', 'pyarrow', 'nncf'}"
        "; sys.exit(repr(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 0, ended.stderr
