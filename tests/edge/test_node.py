"""A real node process against a real signed repository."""

import shutil
import signal
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
from edgedistill.signing import withdraw
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
    assert metadata["outputs"] == [{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}]
    assert metadata["versions"] == ["1"]
    http.close()
    grpc.close()


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


def _wrong_answers(golden: list[tuple[bytes, list[float]]]) -> None:
    golden[0] = (golden[0][0], [value + 3 for value in golden[0][1]])


def _flip_a_byte(publisher: Publisher) -> None:
    path = next((publisher.releases / "targets" / "tiny" / "2").glob("*.model.bin"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _truncate(publisher: Publisher) -> None:
    path = next((publisher.releases / "targets" / "tiny" / "2").glob("*.model.xml"))
    path.write_bytes(path.read_bytes()[:-10])


def _forge_metadata(publisher: Publisher) -> None:
    path = publisher.releases / "metadata" / "timestamp.json"
    path.write_bytes(path.read_bytes().replace(b'"version": 3', b'"version": 9'))


SPOILED = {
    "wrong golden answers": (_wrong_answers, None, "wrong_answer"),
    "flipped byte": (None, _flip_a_byte, "wrong_digest"),
    "truncated": (None, _truncate, "wrong_digest"),
    "forged metadata": (None, _forge_metadata, "bad_signature"),
}


@pytest.mark.parametrize("what", SPOILED)
def test_a_bad_release_is_refused_and_the_old_one_serves_on(
    what: str, publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    before, after, reason = SPOILED[what]
    publisher.publish(seed=1)
    wanted = tmp_path / "wanted"
    wanted.write_text("1\n")
    node = start_node("--version-file", str(wanted))
    node.wait_version(1)
    publisher.publish(seed=2, change=before)
    if after:
        after(publisher)
    wanted.write_text("2\n")
    status = node.wait(lambda s: any(q["version"] == 2 for q in s["quarantined"]))
    assert status["active"]["version"] == 1
    assert status["desired"] == {"version": 2}
    assert status["state"] in ("serving", "probation")
    assert status["quarantined"][-1]["reason"] == reason
    assert status["refused"] == reason
    node.kill()
    assert start_node("--version-file", str(wanted)).wait_version(1)["active"]["version"] == 1


def test_the_same_spoiling_without_the_guard_would_be_served(publisher: Publisher, start_node: StartNode) -> None:
    """Negative control: the change that the guard refuses above is served when the answers are right."""
    publisher.publish(seed=1)
    node = start_node()
    node.wait_version(1)
    publisher.publish(seed=2, change=lambda golden: None)
    node.wait_version(2)


def test_serves_again_with_no_origin(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    node = start_node()
    digest = node.wait_version(1)["active"]["digest"]
    root = publisher.folder / "root.json"
    shutil.copy(publisher.root, root)
    node.kill()
    shutil.rmtree(publisher.releases)
    offline = start_node("--root", str(root))
    assert offline.wait_version(1)["active"]["digest"] == digest


@pytest.mark.parametrize("point", ["before_fetch", "fetched", "tried", "kept", "before_flip", "flipped"])
def test_killed_at_each_step_of_an_update_it_serves_old_or_new(
    point: str, publisher: Publisher, start_node: StartNode
) -> None:
    publisher.publish(seed=1)
    first = start_node()
    first.wait_version(1)
    first.kill()
    publisher.publish(seed=2)
    dying = start_node(environment={"EDGEDISTILL_FAILPOINT": point})
    assert dying.process is not None
    assert dying.process.wait(60) == -signal.SIGKILL
    node = start_node("--version", "1" if point != "flipped" else "2")
    served = node.wait(lambda s: s["active"] is not None)["active"]["version"]
    assert served == (2 if point == "flipped" else 1)
    node.kill()
    assert start_node().wait_version(2)["active"]["version"] == 2


def test_an_older_list_of_releases_is_refused_even_after_the_nodes_own_was_damaged(
    publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    publisher.publish(seed=1)
    shutil.copytree(publisher.releases, tmp_path / "old")
    publisher.publish(seed=2)
    node = start_node()
    node.wait_version(2)
    node.kill()
    for path in (tmp_path / "state" / "metadata").glob("*/timestamp.json"):
        path.write_bytes(path.read_bytes()[:20])
    replayed = start_node("--releases", str(tmp_path / "old"), "--version", "1")
    status = replayed.wait(lambda s: s["last_event"].get("reason") == "old_metadata")
    assert status["active"]["version"] == 2


def test_a_withdrawn_release_is_not_activated(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    publisher.publish(seed=2)
    withdraw(publisher.store, publisher.keys, name="tiny", version=2)
    node = start_node()
    node.wait_version(1)
    wanting = start_node("--version", "2", state="other")
    status = wanting.wait(lambda s: bool(s["quarantined"]))
    assert status["quarantined"][0]["reason"] == "not_listed"
    assert status["state"] == "waiting"


def test_an_older_release_that_is_still_listed_is_a_legal_revert(
    publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    publisher.publish(seed=1)
    publisher.publish(seed=2)
    wanted = tmp_path / "wanted"
    wanted.write_text("2")
    node = start_node("--version-file", str(wanted))
    node.wait_version(2)
    wanted.write_text("1")
    node.wait_version(1)


def test_three_starts_that_die_return_to_the_previous_release(publisher: Publisher, start_node: StartNode) -> None:
    publisher.publish(seed=1)
    start = start_node()
    start.wait_version(1)
    publisher.publish(seed=2)
    start.wait_version(2)
    start.kill()
    for _ in range(2):
        again = start_node("--version", "2")
        again.wait_version(2)
        again.kill()
    status = start_node("--version", "2").wait_version(1)
    assert status["quarantined"][-1]["reason"] == "died"


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


def test_another_root_is_refused(publisher: Publisher, start_node: StartNode, tmp_path: Path) -> None:
    publisher.publish()
    other = Publisher(tmp_path / "other", *_other_repository(tmp_path))
    node = start_node("--root", str(other.root))
    status = node.wait(lambda s: bool(s["last_event"]))
    assert status["last_event"]["reason"] == "bad_signature"
    assert status["active"] is None


def _other_repository(tmp_path: Path):  # type: ignore[no-untyped-def]
    from edgedistill import signing
    from edgedistill.storage import open_store

    store = open_store(tmp_path / "other-store")
    signing.init_repository(store, tmp_path / "other-keys")
    return store, tmp_path / "other-keys"


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
