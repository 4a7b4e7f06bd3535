"""Feedback of a real node: from an unsure answer to a file in the store, while nothing that is served changes."""

import io
import json
import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import tritonclient.http as http_client
from PIL import Image

from edgedistill.images import encode_png
from tests.edge.conftest import SIZE, NodeProcess, Publisher, StartNode, pictures

PER_DAY = 6


def ask(client: http_client.InferenceServerClient, images: np.ndarray | list[bytes]) -> None:
    data = images if isinstance(images, np.ndarray) else np.array(images, dtype=np.object_)
    tensor = http_client.InferInput("image", list(data.shape), "UINT8" if data.ndim == 4 else "BYTES")
    tensor.set_data_from_numpy(data)
    client.infer("tiny", [tensor])


def jpeg_with_a_place() -> bytes:
    exif, buffer = Image.Exif(), io.BytesIO()
    exif.get_ifd(0x8825)[29] = "SECRET"
    Image.new("RGB", (50, 40), (9, 200, 70)).save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


def files(target: Path) -> list[Path]:
    return sorted(path for path in target.rglob("feedback/*/*/*") if path.is_file())


def scraped(node: NodeProcess) -> str:
    with urllib.request.urlopen(f"http://{node.http}/metrics", timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def test_from_an_unsure_answer_to_the_store(publisher: Publisher, start_node: StartNode, tmp_path: Path) -> None:
    publisher.publish(seed=1)
    target = tmp_path / "away"
    target.write_text("a file where a folder should be: the store is away")
    options = ("--feedback", str(target), "--feedback-margin", "1.1", "--feedback-per-day", str(PER_DAY))
    node = start_node(*options, "--feedback-every-s", "0.3", "--drift-limit", "0.2")
    node.wait_version(1)
    client = http_client.InferenceServerClient(node.http)
    images = [encode_png(image) for image in pictures(12)]
    ask(client, [jpeg_with_a_place()])
    for image in images:
        ask(client, [image])
        time.sleep(0.03)
    ask(client, pictures(1, seed=99))
    status = node.wait(lambda s: bool(s["feedback"]["problem"]))
    assert status["feedback"]["spent_today"] == status["feedback"]["waiting"] == PER_DAY
    assert status["feedback"]["outcomes"]["over_budget"] >= 1
    assert status["drift"]["answers"] == 14
    node.kill()  # -9: what was kept waits

    target.unlink()
    node = start_node(*options, "--feedback-every-s", "0.3", "--drift-limit", "0.2")
    node.wait_version(1)
    client = http_client.InferenceServerClient(node.http)
    status = node.wait(lambda s: s["feedback"]["sent"] == PER_DAY)
    assert status["feedback"]["spent_today"] == PER_DAY, "a restart brings no new budget"
    sent = files(target)
    assert len(sent) == 2 * PER_DAY
    assert not any(b"SECRET" in path.read_bytes() or b"Exif" in path.read_bytes() for path in sent)
    for path in sent:
        if path.suffix == ".json":
            said = json.loads(path.read_bytes())
            assert (said["node"], said["release"]["version"]) == ("edge-test", 1)
            assert said["release"]["digest"] == status["active"]["digest"]
            assert path.parts[-3:-1] == ("edge-test", said["time"][:10].replace("-", ""))

    ask(client, [images[0]])
    one = np.zeros((32, SIZE, SIZE, 3), np.uint8)  # always the same class
    for _ in range(16):
        ask(client, one)
    status = node.wait(lambda s: s["feedback"]["sent"] == PER_DAY + 1)
    assert status["drift"]["over"]
    assert status["last_event"]["reason"] == "drift"
    (request,) = (path for path in files(target) if path.name == "run-request.json")
    assert json.loads(request.read_bytes())["reason"] == "drift"
    text = scraped(node)
    assert "edgedistill_drift_over 1.0" in text
    assert 'edgedistill_feedback_pictures_total{outcome="over_budget"}' in text
    publisher.publish(seed=2)
    assert node.wait_version(2)["drift"]["answers"] == 0
    client.close()


def test_off_by_default(publisher: Publisher, start_node: StartNode, tmp_path: Path) -> None:
    publisher.publish(seed=1)
    node = start_node()
    assert node.wait_version(1)["feedback"] is None
    client = http_client.InferenceServerClient(node.http)
    for _ in range(8):
        ask(client, pictures(32))
    client.close()
    status = node.wait(lambda s: s["drift"]["answers"] == 256)
    assert status["drift"]["bits"] < 0.3
    assert "edgedistill_drift_bits 0." in scraped(node)
    assert not (tmp_path / "state" / "feedback").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--feedback", "https://example.org"), "give a folder or s3://bucket"),
        (("--feedback", "s3://bucket"), "EDGEDISTILL_FEEDBACK_ENDPOINT"),
        (("--feedback", "/tmp/x", "--node-name", "a/b"), "can be no part of a key"),
    ],
)
def test_a_wrong_option_is_said_at_the_start(options: tuple[str, ...], said: str, tmp_path: Path) -> None:
    (tmp_path / "root.json").write_text("{}")
    command = [sys.executable, "-m", "edge.node", "--releases", str(tmp_path), "--root", str(tmp_path / "root.json")]
    command += ["--state", str(tmp_path / "state"), "--name", "x", "--http-port", "0", "--grpc-port", "0", *options]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("EDGEDISTILL_FEEDBACK")}
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr
