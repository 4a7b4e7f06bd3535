"""Check somebody else's ONNX classifier, and give it the fixed-size uint8 NHWC front that every teacher has here."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedistill.errors import TeacherError

INPUT, OUTPUT = "image", "logits"
OPSET = 13  # the least that has what the front needs


@dataclass(frozen=True)
class Teacher:
    """A published teacher's model."""

    model: bytes  # ONNX: image uint8 (B, S, S, 3) -> logits float32 (B, K)
    size: int  # S, pixels
    classes: int  # K


def fold_preprocessing(model: bytes, *, mean: Sequence[float], std: Sequence[float]) -> Teacher:
    """Put uint8 NHWC -> float NCHW in front of a classifier that takes normalised floats.

    Args:
        model: ONNX with one input, float32 (B, 3, S, S) or uint8 (B, S, S, 3), and one output (B, K).
        mean: of each RGB channel, on a 0-1 scale; unused when the model takes uint8.
        std: likewise.

    Raises:
        TeacherError: no ONNX model, or not of that shape.
    """
    proto = _parse(model)
    source, sink = proto.graph.input[0], proto.graph.output[0]
    shape, kind = _dims(source), source.type.tensor_type.elem_type
    classes = _dims(sink)[-1]
    if len(_dims(sink)) != 2 or not classes:
        raise TeacherError(f"the teacher's output is {_dims(sink)}, expected (batch, classes); export its logits")
    if kind == TensorProto.UINT8 and len(shape) == 4 and shape[3] == 3 and shape[1] == shape[2] and shape[1]:
        size, front = shape[1], []
    elif kind == TensorProto.FLOAT and len(shape) == 4 and shape[1] == 3 and shape[2] == shape[3] and shape[2]:
        size, front = shape[2], _front(source.name, mean, std)
    else:
        raise TeacherError(
            f"the teacher's input is {shape} of type {TensorProto.DataType.Name(kind)}; expected float32 "
            "(batch, 3, S, S) or uint8 (batch, S, S, 3) with a fixed square S; export it so"
        )
    return Teacher(_assemble(proto, front, size=size, classes=classes), size, classes)


def _parse(model: bytes) -> onnx.ModelProto:
    try:
        proto = onnx.load_from_string(model)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf and the checker raise kinds of their own
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise TeacherError(f"the teacher's file is no ONNX model ({reason}); give a .onnx file") from error
    initial = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in initial]
    if len(inputs) != 1 or len(proto.graph.output) != 1:
        raise TeacherError(
            f"the teacher has {len(inputs)} inputs and {len(proto.graph.output)} outputs; expected one each"
        )
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    return proto


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]  # 0: dynamic


def _front(target: str, mean: Sequence[float], std: Sequence[float]) -> list[onnx.NodeProto | onnx.TensorProto]:
    # (x / 255 - mean) / std  =  x * scale + shift
    scale = (1 / (255 * np.asarray(std, np.float64))).astype(np.float32).reshape(1, -1, 1, 1)
    shift = (-np.asarray(mean, np.float64) / np.asarray(std, np.float64)).astype(np.float32).reshape(1, -1, 1, 1)
    return [
        helper.make_node("Cast", [INPUT], ["front/float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["front/float"], ["front/nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["front/nchw", "front/scale"], ["front/scaled"]),
        helper.make_node("Add", ["front/scaled", "front/shift"], [target]),
        numpy_helper.from_array(scale, "front/scale"),
        numpy_helper.from_array(shift, "front/shift"),
    ]


def _assemble(
    proto: onnx.ModelProto, front: list[onnx.NodeProto | onnx.TensorProto], *, size: int, classes: int
) -> bytes:
    graph = proto.graph
    old_input, old_output = graph.input[0].name, graph.output[0].name
    nodes = [part for part in front if isinstance(part, onnx.NodeProto)]
    if not front:
        nodes.append(helper.make_node("Identity", [INPUT], [old_input]) if old_input != INPUT else None)
    body = [*(node for node in nodes if node is not None), *graph.node]
    if old_output != OUTPUT:
        body.append(helper.make_node("Identity", [old_output], [OUTPUT]))
    graph.initializer.extend(part for part in front if isinstance(part, onnx.TensorProto))
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(body)
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", size, size, 3]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes]))
    onnx.checker.check_model(proto)
    result: bytes = proto.SerializeToString()
    return result
