"""kserve's Python ModelServer with the same student, to compare with.

python -m benchmarks.kserve_server MODEL.xml HTTP_PORT GRPC_PORT
"""

import sys
from pathlib import Path

import numpy as np
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer

from edgedistill.inference import Student

NAME = "bench"


class _Model(Model):  # type: ignore[misc]
    def __init__(self, path: Path) -> None:
        super().__init__(NAME)
        self._student = Student.read(path)
        self.ready = True

    def predict(self, payload: InferRequest, headers: object = None, response_headers: object = None) -> InferResponse:
        logits = self._student.logits(payload.inputs[0].as_numpy().astype(np.uint8, copy=False))
        output = InferOutput("logits", list(logits.shape), "FP32")
        output.set_data_from_numpy(logits, binary_data=True)
        return InferResponse(payload.id or "1", NAME, [output])


if __name__ == "__main__":
    server = ModelServer(http_port=int(sys.argv[2]), grpc_port=int(sys.argv[3]), enable_latency_logging=False)
    server.start([_Model(Path(sys.argv[1]))])
