"""The bodies of the v2 protocol over HTTP: JSON, and the binary tensors that may follow it."""

import json
from itertools import chain
from typing import Any

from edge.node.inference import MAX_OUTPUTS, Answer, InferRequest, Wanted
from edge.node.tensors import Output, ProtocolError, Tensor, clipped

HEADER = "Inference-Header-Content-Length"
MAX_JSON = 8 << 20  # bytes; larger batches go as binary data
MAX_VALUES = 1 << 19  # in the JSON: reading it holds up every other request
_KINDS = {"dict": "an object", "list": "a list", "str": "a string"}
_NO_REQUEST = "the request is no v2 inference request"


def parse(body: bytes, header: str | None = None) -> InferRequest:
    """The request in a body; `header` is the value of Inference-Header-Content-Length, if there is one.

    Raises:
        ProtocolError: no JSON, other types than the protocol's, or sizes that are not those of the body.
    """
    length = len(body)
    if header is not None:
        if not (header.isascii() and header.isdecimal() and len(header) < 12 and int(header) <= len(body)):
            raise ProtocolError("bad_header", f"{HEADER} is {clipped(header)}, the body has {len(body)} bytes")
        length = int(header)
    if length > MAX_JSON:
        message = f"the JSON has {length} bytes, over {MAX_JSON}; send the tensor as binary data"
        raise ProtocolError("too_large", message, 413, "RESOURCE_EXHAUSTED")
    text = body[:length]
    if sum(text.count(mark) for mark in (b",", b"[", b"{")) > MAX_VALUES:
        message = f"the JSON holds over {MAX_VALUES} values; send the tensor as binary data"
        raise ProtocolError("too_large", message, 413, "RESOURCE_EXHAUSTED")
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        raise ProtocolError("bad_json", f"{_NO_REQUEST}: its {length} bytes of JSON cannot be read") from None
    document = _typed(document, dict, "the request")
    inputs = _typed(document.get("inputs"), list, "inputs")
    tensors, at = [], length
    for one in inputs[:2]:  # a second one is refused anyway
        tensor, at = _tensor(_typed(one, dict, "an input"), body, at)
        tensors.append(tensor)
    if len(inputs) < 2 and at != len(body):
        raise ProtocolError("bad_length", f"{len(body) - at} bytes follow the last binary tensor")
    wanted = _typed(document.get("outputs", []), list, "outputs")[:MAX_OUTPUTS]
    outputs = [_wanted(_typed(one, dict, "an output")) for one in wanted]
    parameters = _typed(document.get("parameters", {}), dict, "parameters")
    return InferRequest(tensors, outputs, parameters, _typed(document.get("id", ""), str, "id"))


def encode(answer: Answer, request: InferRequest) -> tuple[bytes, dict[str, str]]:
    """The body of an answer and its headers."""
    default = request.parameters.get("binary_data_output") is True
    is_binary = {one.name: one.is_binary for one in request.outputs}
    described, tail = [], b""
    for output in answer.outputs:
        chosen = is_binary.get(output.name)
        told, raw = _output(output, binary=default if chosen is None else chosen)
        described.append(told)
        tail += raw
    text = json.dumps(answer.head() | {"outputs": described}).encode()
    if not tail:
        return text, {"Content-Type": "application/json"}
    return text + tail, {"Content-Type": "application/octet-stream", HEADER: str(len(text))}


def _typed(value: Any, kind: type[dict[str, Any]] | type[list[Any]] | type[str], name: str) -> Any:
    if not isinstance(value, kind):
        expected = _KINDS[kind.__name__]
        raise ProtocolError("bad_json", f"{_NO_REQUEST}: {name} is {clipped(value)}, expected {expected}")
    return value


def _tensor(one: dict[str, Any], body: bytes, at: int) -> tuple[Tensor, int]:
    """An input, and where in the body the next one's binary data begin."""
    name, datatype = (_typed(one.get(key), str, key) for key in ("name", "datatype"))
    shape = _typed(one.get("shape"), list, "shape")
    if len(shape) > 8 or not all(isinstance(n, int) and not isinstance(n, bool) for n in shape):
        raise ProtocolError("bad_shape", f"the shape is {clipped(shape[:9])}, expected whole numbers")
    size = _typed(one.get("parameters", {}), dict, "parameters").get("binary_data_size")
    if size is None:
        return Tensor(name, datatype, tuple(shape), None, _flat(_typed(one.get("data"), list, "data"))), at
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(body) - at:
        raise ProtocolError("bad_length", f"binary_data_size is {clipped(size)}, {len(body) - at} bytes are left")
    return Tensor(name, datatype, tuple(shape), memoryview(body)[at : at + size]), at + size


def _flat(data: list[Any]) -> list[Any]:
    """v2 allows nested lists. Not numpy's work: it would make each string of them as long as the longest."""
    while data and isinstance(data[0], list):
        if not all(isinstance(one, list) and len(one) == len(data[0]) for one in data):
            raise ProtocolError("bad_data", "the nested data are of several lengths")
        data = list(chain.from_iterable(data))
    return data


def _wanted(one: dict[str, Any]) -> Wanted:
    parameters = _typed(one.get("parameters", {}), dict, "parameters")
    is_binary = parameters.get("binary_data")
    return Wanted(
        _typed(one.get("name"), str, "name"),
        parameters.get("classification"),
        None if is_binary is None else is_binary is True,
    )


def _output(output: Output, *, binary: bool) -> tuple[dict[str, Any], bytes]:
    told: dict[str, Any] = {"name": output.name, "datatype": output.datatype, "shape": output.shape}
    if not binary:
        return told | {"data": output.listed()}, b""
    raw = output.raw()
    return told | {"parameters": {"binary_data_size": len(raw)}}, raw
