"""A real Triton on loopback and the very ONNX file in process: equal metadata, equal logits."""

from pathlib import Path

import numpy as np
import openvino as ov
import pytest

from edgedistill.inference import Student
from serving.local_rig import serve
from tests.pipeline.conftest import Home


@pytest.fixture(scope="module")
def published(finished: Home) -> Path:
    """The teacher in the store: a Triton model repository."""
    return next((finished.store / "teachers").rglob("model.onnx"))


def test_triton_answers_what_the_file_says(published: Path, tmp_path: Path) -> None:
    from tritonclient.grpc import InferenceServerClient, InferInput

    model = published.read_bytes()
    pictures = np.random.default_rng(3).integers(0, 256, (7, 28, 28, 3), dtype=np.uint8)
    expected = Student.from_bytes(model).logits(pictures)
    with serve(model, name="teacher", size=28, classes=10, folder=tmp_path) as served:
        with InferenceServerClient(served.url) as client:
            metadata = client.get_model_metadata("teacher", as_json=True)
            tensor = InferInput("image", list(pictures.shape), "UINT8")
            tensor.set_data_from_numpy(pictures)
            answer = client.infer("teacher", [tensor]).as_numpy("logits")
        assert served.url.startswith("127.0.0.1:")
        pid = served.process.pid
    np.testing.assert_array_equal(answer, expected)
    graph = ov.Core().read_model(model, b"")
    assert [one["name"] for one in metadata["inputs"]] == [graph.inputs[0].any_name]
    assert [one["name"] for one in metadata["outputs"]] == [graph.outputs[0].any_name]
    assert metadata["inputs"][0]["datatype"] == "UINT8"
    assert metadata["inputs"][0]["shape"] == ["-1", "28", "28", "3"]
    assert metadata["outputs"][0]["shape"] == ["-1", "10"]
    assert not Path(f"/proc/{pid}").exists()
    assert not list(tmp_path.iterdir()), "the throw-away repository is gone"


def test_the_store_holds_a_repository_that_a_stock_triton_serves(published: Path) -> None:
    folder = published.parents[1]
    config = (folder / "config.pbtxt").read_text()
    assert f'name: "{folder.name}"' in config
    assert 'backend: "onnxruntime"' in config
    assert (folder / "labels.txt").read_text().splitlines() == [str(i) for i in range(10)]
