"""The local rig's wrapper, run by Triton's python back end: OpenVINO answers from the very ONNX file in the store.

Copied beside the ONNX file as `1/model.py` of a throw-away repository; the file in the store stays the only teacher.
"""

from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """What Triton's python back end calls."""

    def initialize(self, args: dict[str, str]) -> None:
        folder = Path(args["model_repository"]) / args["model_version"]
        # LATENCY lets one request use every core; THROUGHPUT left half of them idle here.
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32"}
        self.compiled = ov.Core().compile_model(str(folder / "model.onnx"), "CPU", settings)
        self.request = self.compiled.create_infer_request()

    def execute(self, requests: list[Any]) -> list[Any]:
        responses = []
        for request in requests:
            # Not as_numpy(): built for numpy 1, it repeats the first byte of uint8 input under numpy 2. (The log says
            # "PyCapsule_GetPointer called with incorrect name" once a request: the capsule is already consumed.)
            images = np.from_dlpack(pb_utils.get_input_tensor_by_name(request, "image"))
            logits = self.request.infer({0: images})[0].copy()  # the next request reuses this memory
            # from_dlpack: with numpy 2 this back end's Tensor(name, array) silently answers no bytes.
            tensor = pb_utils.Tensor.from_dlpack("logits", logits)
            responses.append(pb_utils.InferenceResponse([tensor]))
        return responses
