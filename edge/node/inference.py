"""The Open Inference Protocol v2, without its transports: tensors in, tensors out, or a ProtocolError."""

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.node.engine import Engine, Serving
from edgedistill import __version__
from edgedistill.errors import DatasetError
from edgedistill.images import center_view, decode

INPUT, OUTPUT = "image", "logits"
MAX_BATCH = 32
MAX_BODY = 64 << 20  # bytes
PLATFORM = "openvino"
EXTENSIONS = ("binary_tensor_data",)


class ProtocolError(Exception):
    """What the client did wrong; `status` is the HTTP status, `code` the name of the gRPC one."""

    def __init__(self, message: str, *, status: int = 400, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(message)
        self.status, self.code = status, code


@dataclass(frozen=True)
class Tensor:
    """One input as it came: raw bytes, or a flat list of values."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | None = None
    values: Sequence[Any] = ()


def active_engine(serving: Serving, name: str, version: str = "") -> Engine:
    """The engine that a request means. Raises ProtocolError: not ready, or no such model."""
    engine = serving.engine
    if engine is None:
        raise ProtocolError("no release is active on this node yet", status=503, code="UNAVAILABLE")
    if name != engine.release.name or version not in ("", str(engine.release.version)):
        wanted = f"{name} version {version}" if version else name
        active = f"{engine.release.name} version {engine.release.version}"
        raise ProtocolError(f"no model {wanted!r}; this node serves {active}", status=404, code="NOT_FOUND")
    return engine


async def infer(serving: Serving, engine: Engine, inputs: Sequence[Tensor]) -> NDArray[np.float32]:
    """Answer one request.

    Returns:
        (B, K) float32 logits.

    Raises:
        ProtocolError: other inputs than one `image`, as UINT8 (B, S, S, 3) or BYTES (B) of JPEG or PNG.
    """
    if len(inputs) != 1 or inputs[0].name != INPUT:
        names = [tensor.name for tensor in inputs]
        raise ProtocolError(f"the inputs are {names}, expected one named {INPUT!r}")
    return await serving.infer(engine, _images(inputs[0], engine.manifest.size))


def metadata(engine: Engine) -> dict[str, Any]:
    """The model's metadata, as both transports tell it."""
    size = engine.manifest.size
    return {
        "name": engine.release.name,
        "versions": [str(engine.release.version)],
        "platform": PLATFORM,
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, size, size, 3]}],
        "outputs": [{"name": OUTPUT, "datatype": "FP32", "shape": [-1, engine.manifest.classes]}],
    }


def server_metadata() -> dict[str, Any]:
    """Who answers."""
    return {"name": "edgedistill-node", "version": __version__, "extensions": list(EXTENSIONS)}


def _images(tensor: Tensor, size: int) -> NDArray[np.uint8]:
    if not tensor.shape or not 1 <= tensor.shape[0] <= MAX_BATCH:
        raise ProtocolError(f"the shape is {list(tensor.shape)}, expected a batch of 1 to {MAX_BATCH}")
    if tensor.datatype == "BYTES":
        return _decoded(tensor, size)
    wanted = (tensor.shape[0], size, size, 3)
    if tensor.datatype != "UINT8" or tensor.shape != wanted:
        got = f"{tensor.datatype} {list(tensor.shape)}"
        raise ProtocolError(f"the input is {got}, expected UINT8 {list(wanted)} or BYTES [{wanted[0]}] of JPEG or PNG")
    if tensor.raw is None:
        return _from_values(tensor.values, wanted)
    if len(tensor.raw) != math.prod(wanted):
        raise ProtocolError(f"the input holds {len(tensor.raw)} bytes, its shape says {math.prod(wanted)}")
    return np.frombuffer(tensor.raw, np.uint8).reshape(wanted)


def _from_values(values: Sequence[Any], shape: tuple[int, ...]) -> NDArray[np.uint8]:
    try:
        array = np.asarray(values)
        if array.dtype.kind not in "iu" or array.size != math.prod(shape) or array.min() < 0 or array.max() > 255:
            raise ValueError
    except (ValueError, OverflowError):
        raise ProtocolError(f"the data are no {math.prod(shape)} whole numbers from 0 to 255") from None
    return array.astype(np.uint8).reshape(shape)


def _decoded(tensor: Tensor, size: int) -> NDArray[np.uint8]:
    if len(tensor.shape) != 1:
        raise ProtocolError(f"the shape of BYTES is {list(tensor.shape)}, expected one number")
    pictures = _elements(tensor.raw) if tensor.raw is not None else [_base64(value) for value in tensor.values]
    if len(pictures) != tensor.shape[0]:
        raise ProtocolError(f"the input holds {len(pictures)} pictures, its shape says {tensor.shape[0]}")
    try:
        return np.stack([center_view(decode(picture), size) for picture in pictures])
    except DatasetError as error:
        raise ProtocolError(str(error)) from error


def _elements(raw: bytes) -> list[bytes]:
    """BYTES in binary form: a little-endian length of four bytes before each element."""
    elements, at = [], 0
    while at < len(raw):
        if at + 4 > len(raw):
            raise ProtocolError("the BYTES data end inside an element's length")
        (length,) = struct.unpack_from("<I", raw, at)
        if at + 4 + length > len(raw):
            raise ProtocolError(f"an element of the BYTES data claims {length} bytes, {len(raw) - at - 4} are left")
        elements.append(raw[at + 4 : at + 4 + length])
        at += 4 + length
    return elements


def _base64(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ProtocolError("a picture in JSON is no base64 string; send it so, or as binary data") from None
