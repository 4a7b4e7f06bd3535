"""An int8 graph as a torch module: OpenVINO's FakeQuantize nodes stay where PTQ put them, the weights can be trained.

The graph is run operation by operation, so what is trained is what is deployed: folded batch normalisation, the same
ranges, the same quantised inputs of every layer. Rounding has no gradient; it is passed straight through inside the
range and is zero outside (Bengio, Leonard, Courville 2013, "Estimating or Propagating Gradients Through Stochastic
Neurons", section 4: the straight-through estimator).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgedistill.errors import TrainingError
from edgedistill.models import MEAN, STD

if TYPE_CHECKING:
    import openvino as ov

Port = tuple[str, int]  # unique name of a node, number of its output
Attributes = Mapping[str, Any]
Operation = Callable[[Attributes, list[Tensor]], Tensor | Sequence[Tensor]]
_LAYERS = ("Convolution", "GroupConvolution", "MatMul")


@dataclass(frozen=True)
class _Call:
    """One operation of the graph."""

    name: str
    kind: str
    attributes: Attributes
    inputs: tuple[Port, ...]
    outputs: int


class FakeQuantized(nn.Module):
    """The graph with its weights and biases as parameters; ranges and everything else stay as they are."""

    def __init__(self, model: "ov.Model") -> None:
        """Args:
            model: of `nncf.quantize` with the weights still float in front of their FakeQuantize.

        Raises:
            TrainingError: the graph holds an operation that cannot be trained here.
        """
        super().__init__()
        self._model = model
        self._calls: list[_Call] = []
        self._constants: dict[Port, Tensor] = {}
        self._trained: list[Port] = []
        weights = _trainable(model)
        for node in model.get_ordered_ops():
            kind, name = node.get_type_name(), node.get_name()
            if kind == "Constant":
                self._constants[name, 0] = torch.from_numpy(node.get_data().copy())
                if name in weights:
                    self._trained.append((name, 0))
            elif kind not in ("Parameter", "Result"):
                self._calls.append(_call(node))
        unknown = sorted({call.kind for call in self._calls} - set(OPERATIONS))
        if unknown:
            raise TrainingError(
                f"the int8 graph holds {', '.join(unknown)}, which the qad rung cannot train; set "
                "quantize.last_rung=ptq_full_bias_correction or choose another distill.arch"
            )
        self._image: Port = (model.inputs[0].get_node().get_name(), 0)
        self._logits = _port(model.outputs[0].get_node().input(0))
        weights_of = [self._constants.pop(port) for port in self._trained]
        self._shapes = [weight.shape for weight in weights_of]
        # A depthwise weight has five dimensions, for which torch has no channels_last.
        self.weights = nn.ParameterList([w.flatten(0, 1) if w.dim() == 5 else w for w in weights_of])

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) normalised float32, as every module here takes it -> (B, K) logits of the int8 graph."""
        image = torch.round((pixels * STD + MEAN) * 255).permute(0, 2, 3, 1)  # the graph begins at uint8 NHWC
        known = self._constants | dict(zip(self._trained, self._shaped(), strict=True)) | {self._image: image}
        for call in self._calls:
            result = OPERATIONS[call.kind](call.attributes, [known[port] for port in call.inputs])
            results = [result] if isinstance(result, Tensor) else result
            known |= {(call.name, i): value for i, value in enumerate(results)}
        logits: Tensor = known[self._logits]
        return logits

    def trained(self) -> "ov.Model":
        """The graph with the trained weights in it; the model that was given is changed."""
        import openvino as ov

        nodes = {node.get_name(): node for node in self._model.get_ordered_ops()}
        for (name, _), weight in zip(self._trained, self._shaped(), strict=True):
            fresh = ov.op.Constant(weight.detach().contiguous().numpy())
            for target in nodes[name].output(0).get_target_inputs():
                target.replace_source_output(fresh.output(0))
        self._model.validate_nodes_and_infer_types()
        return self._model

    def _shaped(self) -> list[Tensor]:
        """The weights as the graph has them."""
        return [weight.reshape(shape) for weight, shape in zip(self.weights, self._shapes, strict=True)]


def _trainable(model: "ov.Model") -> set[str]:
    """Names of the constants that are a layer's weight (behind its FakeQuantize) or its bias."""
    found = set()
    for node in model.get_ordered_ops():
        sources = [port.get_source_output().get_node() for port in node.inputs()]
        kinds = [source.get_type_name() for source in sources]
        if node.get_type_name() == "FakeQuantize" and kinds[0] == "Constant":
            found.add(sources[0].get_name())
        if node.get_type_name() == "Add" and "Constant" in kinds and any(kind in _LAYERS for kind in kinds):
            found.add(sources[kinds.index("Constant")].get_name())
    return found


def _call(node: Any) -> _Call:
    inputs = tuple(_port(one) for one in node.inputs())
    return _Call(node.get_name(), node.get_type_name(), node.get_attributes(), inputs, len(node.outputs()))


def _port(target: Any) -> Port:
    source = target.get_source_output()
    return source.get_node().get_name(), source.get_index()


def _fake_quantize(attributes: Attributes, inputs: list[Tensor]) -> Tensor:
    x, low, high, out_low, out_high = inputs
    last = attributes["levels"] - 1
    clipped = x.clamp(low, high)
    span = (high - low).clamp(min=1e-30)  # a channel that is always 0 has a range of one value
    # Scale and shift, as OpenVINO's CPU does it: a uint8 pixel often lies just between two levels, where the last bit
    # of the arithmetic decides which.
    level = torch.round(clipped * (last / span) - low * last / span)
    rounded: Tensor = level * ((out_high - out_low) / last) + out_low
    return clipped + (rounded - clipped).detach()


def _padded(attributes: Attributes, x: Tensor, value: float) -> Tensor:
    if attributes.get("auto_pad", "explicit") not in ("explicit", "valid"):
        raise TrainingError(f"auto_pad {attributes['auto_pad']!r} cannot be trained here; expected explicit")
    (top, left), (bottom, right) = attributes["pads_begin"], attributes["pads_end"]
    return F.pad(x, (left, right, top, bottom), value=value) if any((top, left, bottom, right)) else x


def _convolution(attributes: Attributes, inputs: list[Tensor]) -> Tensor:
    x, weight = inputs
    groups = 1
    if weight.dim() == 5:  # GroupConvolution: (G, O / G, I / G, H, W)
        groups, weight = len(weight), weight.flatten(0, 1)
    strides, dilations = tuple(attributes["strides"]), tuple(attributes["dilations"])
    return F.conv2d(_padded(attributes, x, 0.0), weight, None, strides, 0, dilations, groups)


def _max_pool(attributes: Attributes, inputs: list[Tensor]) -> Tensor:
    x = _padded(attributes, inputs[0], float("-inf"))
    ceil = attributes["rounding_type"] != "floor"
    return F.max_pool2d(x, tuple(attributes["kernel"]), tuple(attributes["strides"]), 0, 1, ceil)


def _matmul(attributes: Attributes, inputs: list[Tensor]) -> Tensor:
    a, b = inputs
    a = a.transpose(-1, -2) if attributes["transpose_a"] else a
    return a @ (b.transpose(-1, -2) if attributes["transpose_b"] else b)


def _reshape(attributes: Attributes, inputs: list[Tensor]) -> Tensor:
    x, shape = inputs
    copied = attributes["special_zero"]
    return x.reshape([x.shape[i] if size == 0 and copied else size for i, size in enumerate(shape.tolist())])


def _gather(attributes: Attributes, inputs: list[Tensor]) -> Tensor:
    x, indices, where = inputs
    axis = int(where) % x.dim()
    chosen = x.index_select(axis, indices.flatten().long() % x.shape[axis])
    return chosen.reshape([*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]])


def _split(attributes: Attributes, inputs: list[Tensor]) -> Sequence[Tensor]:
    x, axis, lengths = inputs
    sizes = lengths.tolist()
    rest = x.shape[int(axis)] - sum(size for size in sizes if size >= 0)
    return torch.split(x, [rest if size < 0 else size for size in sizes], int(axis))


def _convert(attributes: Attributes, inputs: list[Tensor]) -> Tensor:
    kinds = {"f32": torch.float32, "i64": torch.int64, "i32": torch.int32}
    return inputs[0].to(kinds[attributes["destination_type"]])


# What convolutional classifiers consist of; anything else is told, not guessed.
OPERATIONS: dict[str, Operation] = {
    "Add": lambda _, x: x[0] + x[1],
    "Clamp": lambda a, x: x[0].clamp(a["min"], a["max"]),
    "Concat": lambda a, x: torch.cat(x, a["axis"]),
    "Convert": _convert,
    "Convolution": _convolution,
    "Divide": lambda _, x: x[0] * (1 / x[1]),  # as OpenVINO's CPU does it
    "FakeQuantize": _fake_quantize,
    "Gather": _gather,
    "GroupConvolution": _convolution,
    "HSigmoid": lambda _, x: F.hardsigmoid(x[0]),
    "HSwish": lambda _, x: F.hardswish(x[0]),
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Multiply": lambda _, x: x[0] * x[1],
    "Range": lambda _, x: torch.arange(int(x[0]), int(x[1]), int(x[2])),
    "ReduceMean": lambda a, x: x[0].mean(tuple(x[1].flatten().tolist()), a["keep_dims"]),
    "Relu": lambda _, x: F.relu(x[0]),
    "Reshape": _reshape,
    "ShapeOf": lambda _, x: torch.tensor(x[0].shape),
    "Sigmoid": lambda _, x: x[0].sigmoid(),
    "Subtract": lambda _, x: x[0] - x[1],
    "Swish": lambda _, x: F.silu(x[0]),
    "Transpose": lambda _, x: x[0].permute(x[1].tolist()),
    "VariadicSplit": _split,
}
