"""A compiled classifier: uint8 pictures in, logits out. Node and pipeline share it."""

from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray

# f32: on a CPU with AMX the default would be bf16, and golden answers would differ from machine to machine.
_SETTINGS = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}


class Student:
    """A model on the CPU. One infer request: callers that share it take turns."""

    def __init__(self, model: ov.Model, *, threads: int | None = None) -> None:
        settings = _SETTINGS | ({"INFERENCE_NUM_THREADS": threads} if threads else {})
        self._compiled = ov.Core().compile_model(model, "CPU", settings)
        self._request = self._compiled.create_infer_request()

    @staticmethod
    def read(xml: Path, *, threads: int | None = None) -> "Student":
        """From an OpenVINO IR file (its .bin beside it) or an ONNX file."""
        return Student(ov.Core().read_model(xml), threads=threads)

    @staticmethod
    def from_bytes(model: bytes, weights: bytes | None = None) -> "Student":
        """From an ONNX model, or an IR with its weights."""
        core = ov.Core()
        if weights is None:
            return Student(core.read_model(model, b""))
        return Student(core.read_model(model, weights))

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, S, S, 3) uint8 -> (B, K) float32, a copy. Raises RuntimeError when the model cannot take the shape."""
        result: NDArray[np.float32] = self._request.infer({0: images})[0].copy()
        return result
