"""The Open Inference Protocol v2, without its transports: tensors in, tensors out, or a ProtocolError.

One input, `image`: UINT8 (B, S, S, 3), or BYTES (B) of JPEG and PNG. Three outputs:

    logits       FP32 (B, K)    what is answered when a request asks for nothing else
    label        BYTES (B, k)   the k most probable classes, best first
    probability  FP32 (B, k)    theirs

A request asks for the last two by the parameter `top_k`, or by naming them. Triton's `classification` extension
(`class_count` in tritonclient) works on logits and probability: BYTES (B, k) of "value:index:label".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge.node.engine import Engine
from edge.node.pictures import Decoder
from edge.node.serving import InferenceFailed, Overloaded, Serving
from edge.node.tensors import Output, ProtocolError, Tensor, clipped, picture_elements, uint8_batch
from edgedistill import __version__

INPUT, LOGITS, LABEL, PROBABILITY = "image", "logits", "label", "probability"
MAX_OUTPUTS = 4  # that are read of a request: one more than there are, so that a surplus is seen
TOP_K = 5  # of a request that names `label` or `probability` and no number
MAX_BODY = 64 << 20  # bytes
PLATFORM = "openvino"
EXTENSIONS = ("binary_tensor_data", "classification", "model_repository")


@dataclass(frozen=True)
class Wanted:
    """An output that a request names."""

    name: str
    classes: Any = None  # Triton's classification: so many strings instead of the numbers; as the client sent it
    is_binary: bool | None = None  # of HTTP; None: as the request says for all


@dataclass(frozen=True)
class InferRequest:
    """What a client asks, as both transports read it."""

    inputs: Sequence[Tensor]
    outputs: Sequence[Wanted] = ()
    parameters: Mapping[str, Any] = field(default_factory=dict)
    id: str = ""


@dataclass(frozen=True)
class Answer:
    """What a client gets, and which release said it."""

    engine: Engine
    outputs: tuple[Output, ...]
    id: str = ""

    @property
    def parameters(self) -> dict[str, str]:
        """Of the response."""
        return {"release_digest": self.engine.release.digest}

    def head(self) -> dict[str, Any]:
        """The response without its outputs, as JSON says it."""
        release = self.engine.release
        head: dict[str, Any] = {"model_name": release.name, "model_version": str(release.version)}
        return head | ({"id": self.id} if self.id else {}) | {"parameters": self.parameters}


class Inference:
    """Answers requests from the active engine. Every method that takes a name may raise ProtocolError."""

    def __init__(self, serving: Serving, decoder: Decoder) -> None:
        self.serving, self._decoder = serving, decoder

    def engine(self, name: str, version: str = "") -> Engine:
        """The engine that a request means. Raises ProtocolError: not ready, or no such model."""
        engine = self.serving.engine
        if engine is None:
            raise ProtocolError("no_release", "no release is active on this node yet", 503, "UNAVAILABLE")
        if name != engine.release.name or version not in ("", str(engine.release.version)):
            wanted = f"{name} version {version}" if version else name
            active = f"{engine.release.name} version {engine.release.version}"
            raise ProtocolError("no_model", f"no model {clipped(wanted)}; this node serves {active}", 404, "NOT_FOUND")
        return engine

    async def infer(self, engine: Engine, request: InferRequest) -> Answer:
        """Answer one request.

        Raises:
            ProtocolError: other inputs, outputs or parameters than the module's docstring says; too many requests
                wait; or the release failed.
        """
        if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
            names = clipped([tensor.name for tensor in request.inputs[:4]])
            raise ProtocolError("bad_input", f"the inputs are {names}, expected one named {INPUT!r}")
        wanted, count = _wanted(request, engine.manifest.classes)
        try:
            logits = await self._logits(engine, request.inputs[0])
        except Overloaded as error:
            raise ProtocolError("overloaded", str(error), 429, "RESOURCE_EXHAUSTED") from error
        except InferenceFailed as error:
            raise ProtocolError("inference_failed", str(error), 500, "INTERNAL") from error
        return Answer(engine, _outputs(wanted, logits, engine.labels, count), request.id)

    async def _logits(self, engine: Engine, tensor: Tensor) -> NDArray[np.float32]:
        size = engine.manifest.size
        if tensor.datatype == "BYTES":
            pictures = picture_elements(tensor)
            return await self.serving.infer_encoded(engine, pictures, lambda some: self._decoder.views(some, size))
        return await self.serving.infer(engine, uint8_batch(tensor, size))

    def metadata(self, name: str, version: str = "") -> dict[str, Any]:
        """The model's metadata; `parameters` has its labels, in the order of the logits, and its digest."""
        engine = self.engine(name, version)
        size, classes = engine.manifest.size, engine.manifest.classes
        return {
            "name": engine.release.name,
            "versions": [str(engine.release.version)],
            "platform": PLATFORM,
            "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, size, size, 3]}],
            "outputs": [
                {"name": LOGITS, "datatype": "FP32", "shape": [-1, classes]},
                {"name": LABEL, "datatype": "BYTES", "shape": [-1, -1]},
                {"name": PROBABILITY, "datatype": "FP32", "shape": [-1, -1]},
            ],
            "parameters": {"labels": list(engine.labels), "release_digest": engine.release.digest},
        }

    def index(self) -> list[dict[str, str]]:
        """The models that this node serves: one, or none yet."""
        engine = self.serving.engine
        if engine is None:
            return []
        return [{"name": engine.release.name, "version": str(engine.release.version), "state": "READY", "reason": ""}]


def server_metadata() -> dict[str, Any]:
    """Who answers."""
    return {"name": "edgedistill-node", "version": __version__, "extensions": list(EXTENSIONS)}


def softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """(B, K) finite logits -> (B, K) probabilities, in float64: no logit, however large, overflows."""
    shifted = logits.astype(np.float64)
    shifted -= shifted.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    result: NDArray[np.float64] = powers / powers.sum(axis=1, keepdims=True)
    return result


def _wanted(request: InferRequest, classes: int) -> tuple[Sequence[Wanted], int]:
    """The outputs to give, and k."""
    asked = request.parameters.get("top_k")
    count = _count("top_k", asked, classes) if asked is not None else min(TOP_K, classes)
    default = (LABEL, PROBABILITY) if asked is not None else (LOGITS,)
    names = [one.name for one in request.outputs]
    unknown = [name for name in names if name not in (LOGITS, LABEL, PROBABILITY)]
    if unknown or len(set(names)) != len(names):
        expected = f"expected {LOGITS!r}, {LABEL!r} or {PROBABILITY!r}, each once"
        raise ProtocolError("bad_output", f"the outputs are {clipped(names[:4])}, {expected}")
    for one in request.outputs:
        if one.classes is not None and one.name == LABEL:
            raise ProtocolError("bad_output", f"classification of {LABEL!r}; ask for it of {LOGITS!r}")
    return request.outputs or [Wanted(name) for name in default], count


def _count(name: str, value: Any, classes: int) -> int:
    """A number of classes; more than there are means all, so one client suits every student."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ProtocolError("bad_parameter", f"{name} is {clipped(value)}, expected a whole number from 1")
    return min(value, classes)


def _outputs(
    wanted: Sequence[Wanted], logits: NDArray[np.float32], labels: Sequence[str], count: int
) -> tuple[Output, ...]:
    if all(one.name == LOGITS and one.classes is None for one in wanted):  # the usual case: nothing to sort
        return tuple(Output(LOGITS, logits) for _ in wanted)
    numbers, text = {LOGITS: logits}, [label.encode() for label in labels]
    best = np.argsort(-logits, axis=1, kind="stable")  # equal ones in the order of the labels
    top = best[:, :count]
    made = []
    if any(one.name == PROBABILITY for one in wanted):
        numbers[PROBABILITY] = softmax(logits).astype(np.float32)
    for one in wanted:
        if one.classes is not None:
            first = best[:, : _count("classification", one.classes, logits.shape[1])]
            made.append(Output(one.name, _classification(numbers[one.name], first, labels)))
        elif one.name == LABEL:
            made.append(Output(LABEL, [[text[i] for i in row] for row in top]))
        elif one.name == PROBABILITY:
            made.append(Output(PROBABILITY, np.take_along_axis(numbers[PROBABILITY], top, axis=1)))
        else:
            made.append(Output(LOGITS, logits))
    return tuple(made)


def _classification(values: NDArray[np.float32], first: NDArray[np.int64], labels: Sequence[str]) -> list[list[bytes]]:
    """(B, k) strings as Triton makes them."""
    return [[f"{value[i]:f}:{i}:{labels[i]}".encode() for i in row] for value, row in zip(values, first, strict=True)]
