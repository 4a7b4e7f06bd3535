"""Check somebody else's ONNX classifier, and give it the fixed-size uint8 NHWC front that every teacher has here."""

import ast
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgedistill.errors import TeacherError

INPUT, OUTPUT = "image", "logits"
NAMES = ("labels", "names", "classes")  # keys of an ONNX file's metadata that may hold its class names
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16)


@dataclass(frozen=True)
class Teacher:
    """A teacher's model with its front."""

    model: bytes  # ONNX: image uint8 (B, S, S, 3) -> logits float32 (B, K)
    size: int  # S, pixels
    classes: int  # K
    names: tuple[str, ...] = ()  # of its classes, when the file tells them
    metadata: Mapping[str, str] = field(default_factory=dict)  # the file's own


def read_onnx(path: Path) -> bytes:
    """An ONNX file as one piece: torch's exporter keeps the weights of a model in a file beside it.

    Raises:
        TeacherError: no such file, or a file of weights that it names is not there.
    """
    if not path.is_file():
        raise TeacherError(f"no teacher at {str(path)!r}; give the path of an ONNX file, --teacher FILE.onnx")
    data = path.read_bytes()
    try:
        proto = onnx.load_from_string(data)
        if not any(tensor.data_location == TensorProto.EXTERNAL for tensor in proto.graph.initializer):
            return data
        onnx.load_external_data_for_model(proto, str(path.parent))
    except Exception as error:  # protobuf, the checker and the file system raise kinds of their own
        raise TeacherError(
            f"the teacher's file {str(path)!r} is no whole ONNX model ({_reason(error)}); give a .onnx file"
        ) from error
    whole: bytes = proto.SerializeToString()
    return whole


def fold_preprocessing(
    model: bytes, *, mean: Sequence[float], std: Sequence[float], size: int = 0, crop: float = 1.0
) -> Teacher:
    """Put uint8 NHWC -> float NCHW in front of a classifier that takes normalised floats.

    Args:
        model: ONNX with one input, float (B, 3, S, S) or uint8 (B, S, S, 3), and one output (B, K).
        mean: of each RGB channel, on a 0-1 scale; unused when the model takes uint8.
        std: likewise.
        size: S, where the model leaves it open; 0: the model's own.
        crop: share of the picture's side that the model sees, cut from the middle; 1: all of it.

    Raises:
        TeacherError: no ONNX model, or not of that shape.
    """
    proto = parse(model)
    source, sink = proto.graph.input[0], proto.graph.output[0]
    shape, kind = _dims(source), source.type.tensor_type.elem_type
    classes = _dims(sink)[-1:]
    if len(_dims(sink)) != 2 or not classes[0]:
        raise TeacherError(f"the teacher's output is {_dims(sink)}, expected (batch, classes); export its logits")
    floats = kind in _FLOATS and len(shape) == 4 and shape[1] == 3
    sides = shape[2:] if floats else shape[1:3]
    if not (floats or (kind == TensorProto.UINT8 and len(shape) == 4 and shape[3] == 3)) or sides[0] != sides[1]:
        raise TeacherError(
            f"the teacher's input is {shape} of type {TensorProto.DataType.Name(kind)}; expected float32 "
            "(batch, 3, S, S) or uint8 (batch, S, S, 3) with a square S; export it so"
        )
    inner = _side(sides[0], size)
    outer = inner if crop == 1 or not floats else round(inner / crop)
    front = _front(source.name, kind, mean, std, margin=(outer - inner) // 2, inner=inner) if floats else []
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    model = _assemble(proto, front, size=outer, classes=classes[0])
    return Teacher(model, outer, classes[0], _names(metadata), metadata)


def _side(own: int, wanted: int) -> int:
    if own and wanted and own != wanted:
        raise TeacherError(f"the teacher takes {own} px, teacher.size is {wanted}; leave teacher.size out")
    if not (own or wanted):
        raise TeacherError("the teacher takes pictures of any size; say which with --set teacher.size=224")
    return own or wanted


def _names(metadata: Mapping[str, str]) -> tuple[str, ...]:
    """Class names in the file's metadata: a JSON list or object, Python's own notation of one, or one a line."""
    text = next((metadata[key] for key in NAMES if metadata.get(key)), "")
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(value, dict):
            value = [value[key] for key in sorted(value, key=int)]
        if isinstance(value, list | tuple):
            return tuple(map(str, value))
    return tuple(line.strip() for line in text.splitlines() if line.strip())


def parse(model: bytes) -> onnx.ModelProto:
    """A checked model of one input and one output. Raises TeacherError when it is none."""
    try:
        proto = onnx.load_from_string(model)
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf and the checker raise kinds of their own
        raise TeacherError(f"the teacher's file is no ONNX model ({_reason(error)}); give a .onnx file") from error
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


def _front(
    target: str, kind: int, mean: Sequence[float], std: Sequence[float], *, margin: int, inner: int
) -> list[onnx.NodeProto | onnx.TensorProto]:
    # (x / 255 - mean) / std  =  x * scale + shift
    scale = (1 / (255 * np.asarray(std, np.float64))).astype(np.float32).reshape(1, -1, 1, 1)
    shift = (-np.asarray(mean, np.float64) / np.asarray(std, np.float64)).astype(np.float32).reshape(1, -1, 1, 1)
    parts: list[onnx.NodeProto | onnx.TensorProto] = []
    pixels = INPUT
    if margin:
        pixels = "front/cropped"
        ends = {"starts": [margin, margin], "ends": [margin + inner, margin + inner], "axes": [1, 2]}
        parts += [numpy_helper.from_array(np.array(values), f"front/{name}") for name, values in ends.items()]
        parts.append(helper.make_node("Slice", [INPUT, *(f"front/{name}" for name in ends)], [pixels]))
    last = target if kind == TensorProto.FLOAT else "front/shifted"
    parts += [
        helper.make_node("Cast", [pixels], ["front/float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["front/float"], ["front/nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("Mul", ["front/nchw", "front/scale"], ["front/scaled"]),
        helper.make_node("Add", ["front/scaled", "front/shift"], [last]),
        numpy_helper.from_array(scale, "front/scale"),
        numpy_helper.from_array(shift, "front/shift"),
    ]
    if last != target:
        parts.append(helper.make_node("Cast", [last], [target], to=kind))
    return parts


def _assemble(
    proto: onnx.ModelProto, front: list[onnx.NodeProto | onnx.TensorProto], *, size: int, classes: int
) -> bytes:
    graph = proto.graph
    old_input, old_output = graph.input[0].name, graph.output[0]
    body = [part for part in front if isinstance(part, onnx.NodeProto)]
    if not front and old_input != INPUT:
        body.append(helper.make_node("Identity", [INPUT], [old_input]))
    body += graph.node
    if old_output.type.tensor_type.elem_type != TensorProto.FLOAT:
        body.append(helper.make_node("Cast", [old_output.name], [OUTPUT], to=TensorProto.FLOAT))
    elif old_output.name != OUTPUT:
        body.append(helper.make_node("Identity", [old_output.name], [OUTPUT]))
    graph.initializer.extend(part for part in front if isinstance(part, onnx.TensorProto))
    del graph.node[:], graph.input[:], graph.output[:]
    graph.node.extend(body)
    graph.input.append(helper.make_tensor_value_info(INPUT, TensorProto.UINT8, ["batch", size, size, 3]))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes]))
    return checked(proto)


def checked(proto: onnx.ModelProto) -> bytes:
    """The bytes of a model that was changed here.

    Raises:
        TeacherError: the change does not fit the model, as with a very old opset.
    """
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise TeacherError(
            f"the teacher's graph cannot be extended ({_reason(error)}); export opset 13 or later"
        ) from error
    result: bytes = proto.SerializeToString()
    return result


def _reason(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
