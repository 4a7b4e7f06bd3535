"""The tensors of the v2 protocol: what a client sent, checked before anything of its claimed size is made."""

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_BATCH = 32


class ProtocolError(Exception):
    """What the client did wrong, or cannot have now.

    `reason` is a slug for the metrics, `status` the HTTP status, `code` the name of the gRPC one.
    """

    def __init__(self, reason: str, message: str, status: int = 400, code: str = "INVALID_ARGUMENT") -> None:
        super().__init__(message)
        self.reason, self.status, self.code = reason, status, code


@dataclass(frozen=True)
class Tensor:
    """One input as it came: raw bytes, or a flat sequence of values."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    raw: bytes | memoryview | None = None
    values: Sequence[Any] = ()


@dataclass(frozen=True)
class Output:
    """One output: (B, ...) float32, or (B, k) lists of bytes."""

    name: str
    values: NDArray[np.float32] | list[list[bytes]]

    @property
    def datatype(self) -> str:
        """The protocol's name of the type."""
        return "BYTES" if isinstance(self.values, list) else "FP32"

    @property
    def shape(self) -> list[int]:
        """Of the tensor."""
        return [len(self.values), len(self.values[0])]

    def raw(self) -> bytes:
        """The binary form: little-endian numbers, or each element behind its length."""
        if isinstance(self.values, list):
            return b"".join(struct.pack("<I", len(one)) + one for row in self.values for one in row)
        return self.values.astype("<f4", copy=False).tobytes()

    def listed(self) -> list[Any]:
        """The flat list that JSON has."""
        if isinstance(self.values, list):
            return [one.decode() for row in self.values for one in row]
        listed: list[Any] = self.values.ravel().tolist()
        return listed


def clipped(value: Any) -> str:
    """A client's value, fit for a message: escaped, and not longer than a line."""
    told = repr(value)
    return told if len(told) <= 80 else told[:77] + "..."


def uint8_batch(tensor: Tensor, size: int) -> NDArray[np.uint8]:
    """(B, S, S, 3) pixels. Raises ProtocolError."""
    batch = _batch(tensor)
    wanted = (batch, size, size, 3)
    if tensor.datatype != "UINT8" or tensor.shape != wanted:
        got = f"{clipped(tensor.datatype)} {clipped(list(tensor.shape))}"
        expected = f"expected UINT8 {list(wanted)} or BYTES [{batch}] of JPEG or PNG"
        raise ProtocolError("bad_shape", f"the input is {got}, {expected}")
    count = math.prod(wanted)
    if tensor.raw is None:
        return _from_values(tensor.values, count).reshape(wanted)
    if len(tensor.raw) != count:
        raise ProtocolError("bad_length", f"the input holds {len(tensor.raw)} bytes, its shape says {count}")
    return np.frombuffer(tensor.raw, np.uint8).reshape(wanted)


def picture_elements(tensor: Tensor) -> list[bytes]:
    """The JPEG and PNG files of a BYTES tensor. Raises ProtocolError."""
    batch = _batch(tensor)
    if len(tensor.shape) not in (1, 2) or math.prod(tensor.shape) != batch:
        raise ProtocolError("bad_shape", f"the shape of BYTES is {clipped(list(tensor.shape))}, expected [{batch}]")
    if tensor.raw is not None:
        pictures = _elements(tensor.raw, batch)
    else:
        pictures = [_base64(value) for value in tensor.values[: batch + 1]]
    if len(pictures) != batch:
        held = len(pictures) if len(pictures) < batch else f"more than {batch}"
        raise ProtocolError("bad_length", f"the input holds {held} pictures, its shape says {batch}")
    return pictures


def _batch(tensor: Tensor) -> int:
    if not tensor.shape or not 1 <= tensor.shape[0] <= MAX_BATCH:
        told = clipped(list(tensor.shape))
        raise ProtocolError("bad_shape", f"the shape is {told}, expected a batch of 1 to {MAX_BATCH}")
    return tensor.shape[0]


def _from_values(values: Sequence[Any], count: int) -> NDArray[np.uint8]:
    try:
        # Number and types first: nothing is made of a list of another length, nor of one that holds a long string.
        is_sound = len(values) == count and (not isinstance(values, list) or set(map(type, values)) <= {int})
        array = np.asarray(values) if is_sound else np.empty(0)
        if array.dtype.kind not in "iu" or array.size != count or array.min() < 0 or array.max() > 255:
            raise ValueError
    except (ValueError, TypeError, OverflowError):
        raise ProtocolError("bad_data", f"the data are no {count} whole numbers from 0 to 255") from None
    return array.astype(np.uint8)


def _elements(raw: bytes | memoryview, most: int) -> list[bytes]:
    """BYTES in binary form: a little-endian length of four bytes before each element. Stops behind `most`."""
    elements: list[bytes] = []
    at = 0
    while at < len(raw) and len(elements) <= most:
        if at + 4 > len(raw):
            raise ProtocolError("bad_length", "the BYTES data end inside an element's length")
        (length,) = struct.unpack_from("<I", raw, at)
        if at + 4 + length > len(raw):
            left = len(raw) - at - 4
            raise ProtocolError("bad_length", f"an element of the BYTES data claims {length} bytes, {left} are left")
        elements.append(bytes(raw[at + 4 : at + 4 + length]))
        at += 4 + length
    return elements


def _base64(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    try:
        return base64.b64decode(value, validate=True)
    except (binascii.Error, TypeError, ValueError):
        raise ProtocolError(
            "bad_data", "a picture in JSON is no base64 string; send it so, or as binary data"
        ) from None
