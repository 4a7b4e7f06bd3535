"""What a small message would grow to is refused before it grows; what clients send is not."""

import json
import subprocess
import sys
import tracemalloc
from typing import Any

import numpy as np
import pytest
from tritonclient.grpc import InferInput, InferRequestedOutput, service_pb2
from tritonclient.grpc._utils import _get_inference_request

from edge.node.rest_body import MAX_JSON, parse
from edge.node.tensors import ProtocolError, Tensor, picture_elements, uint8_batch
from edge.node.wire import is_modest
from tests.edge.conftest import pictures
from tests.edge.fuzz_cases import message
from tests.edge.proof import generator

HEAD = '{"inputs":[{"name":"image","datatype":"UINT8","shape":[32,8,8,3],"data":['
INFER = service_pb2.ModelInferRequest


def test_what_tritonclient_sends_is_modest() -> None:
    image = InferInput("image", [32], "BYTES")
    image.set_data_from_numpy(np.array([b"x" * 100_000] * 32, dtype=np.object_))
    outputs = [InferRequestedOutput(name) for name in ("logits", "label", "probability")]
    made = _get_inference_request(
        model_name="tiny", inputs=[image], model_version="1", request_id="id", outputs=outputs, sequence_id=0,
        sequence_start=False, sequence_end=False, priority=0, timeout=None, parameters={"top_k": 3},
    )  # fmt: skip
    assert is_modest(made.SerializeToString())
    by_contents = INFER(model_name="tiny")
    one = by_contents.inputs.add(name="image", datatype="UINT8", shape=[32, 224, 224, 3])
    one.contents.uint_contents.extend([255] * (32 * 224 * 224 * 3))
    assert is_modest(by_contents.SerializeToString())
    pictures = INFER(inputs=[INFER.InferInputTensor(name="image", datatype="BYTES", shape=[2])])
    pictures.inputs[0].contents.bytes_contents.extend([b"x" * (20 << 20)] * 2)
    assert is_modest(pictures.SerializeToString())


@pytest.mark.parametrize(
    "piece",
    [
        b"\x2a\x00",  # an empty input
        b"\x32\x00",  # an empty output
        b"\x3a\x00",  # empty raw contents
        b"\x22\x00",  # an empty parameter
        b"\x2a\x82\x80\x01\x2a\xfe\xff\x00" + b"\x42\x00" * 8191,  # pictures of no bytes
    ],
)
def test_a_message_that_would_grow_is_not(piece: bytes) -> None:
    assert not is_modest(piece * (30_000 // len(piece) + 1))
    assert INFER.FromString(piece) is not None, "protobuf would read it"


def test_it_never_fails_and_agrees_with_protobuf_on_what_is_right() -> None:
    rng = generator("P14-wire")
    for _ in range(2000):
        is_modest(rng.randbytes(rng.randrange(60)))
        data = message(rng)
        try:
            INFER.FromString(data)
        except Exception:
            continue
        assert is_modest(data) or b"\x0b" in data or b"\x0c" in data, "groups aside, which no client has sent for years"


def test_negative_control_protobuf_alone_grows_twentyfold_and_more() -> None:
    code = (
        "import pathlib, re; from edge.node.protocol import open_inference_pb2 as pb\n"
        "peak = lambda: int(re.findall('VmHWM:[^0-9]*([0-9]+)', pathlib.Path('/proc/self/status').read_text())[0])\n"
        "data = b'\\x2a\\x00' * (4 << 20); before = peak(); pb.ModelInferRequest.FromString(data)\n"
        "print((peak() - before) * 1024 / len(data))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 20


@pytest.mark.parametrize("unit", ["[0],", "[],", "[[[0]]],", "1e5,", "0,", "{},"])
def test_json_of_too_many_values_is_refused_unread(unit: str) -> None:
    count = (MAX_JSON - 200) // len(unit)
    with pytest.raises(ProtocolError, match="send the tensor as binary data") as caught:
        parse((HEAD + unit * count + "0]}]}").encode())
    assert caught.value.status == 413


def test_json_of_one_large_picture_is_read() -> None:
    data = "[" + ",".join(["[" + ",".join(["[1,2,255]"] * 299) + "]"] * 299) + "]"
    text = f'{{"inputs":[{{"name":"image","datatype":"UINT8","shape":[1,299,299,3],"data":{data}}}]}}'
    tensor: Tensor = parse(text.encode()).inputs[0]
    assert uint8_batch(tensor, 299)[0, 0, 0].tolist() == [1, 2, 255]


@pytest.mark.parametrize("data", [[["A" * 200_000, *[""] * 999]], ["A" * 200_000, *[""] * 191], [[1, "A" * 200_000]]])
@pytest.mark.parametrize("datatype", ["UINT8", "BYTES"])
def test_one_long_string_makes_no_other_longer(data: list[Any], datatype: str) -> None:
    """numpy's arrays of strings hold each as long as the longest, at four bytes a character."""
    shape = [1, 8, 8, 3] if datatype == "UINT8" else [1]
    body = json.dumps({"inputs": [{"name": "image", "datatype": datatype, "shape": shape, "data": data}]}).encode()
    tracemalloc.start()
    try:
        read = uint8_batch if datatype == "UINT8" else lambda tensor, size: picture_elements(tensor)
        with pytest.raises(ProtocolError):
            read(parse(body).inputs[0], 8)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body)
    finally:
        tracemalloc.stop()


def test_nested_pixels_are_read() -> None:
    pixels = pictures(2)
    one = {"name": "image", "datatype": "UINT8", "shape": list(pixels.shape), "data": pixels.tolist()}
    tensor = parse(json.dumps({"inputs": [one]}).encode()).inputs[0]
    np.testing.assert_array_equal(uint8_batch(tensor, 8), pixels)
