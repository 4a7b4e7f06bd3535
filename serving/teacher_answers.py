"""The back of a teacher's graph: probabilities become logits again, and its classes become the student's.

Done in the graph, so that the served model gives the final classes and nobody downstream has to know.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from serving.onnx_teacher import OUTPUT, Teacher, checked, parse

LEAST = 1e-12  # a probability below it counts as it: its logarithm, -27.6, is far inside float16
_PASSING = frozenset({"Identity", "Cast", "Flatten", "Reshape", "Squeeze"})  # they move answers and change none
_AXES_ARE_INPUT = 18  # the opset from which the reductions take their axes as an input


def are_probabilities(answers: NDArray[np.float32]) -> bool:
    """Whether (B, K) answers, K > 1, lie in 0..1 and sum to 1."""
    inside = (answers >= 0).all() and (answers <= 1).all()
    return bool(answers.shape[1] > 1 and inside and np.allclose(answers.sum(axis=1), 1, atol=1e-3))


def without_softmax(teacher: Teacher) -> Teacher | None:
    """The same graph without its last Softmax, so that its logits come out whole; None when it does not end in one."""
    proto = parse(teacher.model)
    producers = {name: node for node in proto.graph.node for name in node.output}
    node = producers.get(OUTPUT)
    while node is not None and node.op_type in _PASSING:
        node = producers.get(node.input[0])
    if node is None or node.op_type != "Softmax":
        return None
    node.CopyFrom(helper.make_node("Identity", list(node.input), list(node.output)))
    return replace(teacher, model=checked(proto))


def with_log(teacher: Teacher) -> Teacher:
    """The same graph with a logarithm at its end: log p is logits up to a constant, which softmax does not see."""
    proto, last = _reopened(teacher)
    proto.graph.initializer.append(numpy_helper.from_array(np.float32(LEAST), "back/least"))
    proto.graph.node.append(helper.make_node("Max", [last, "back/least"], ["back/kept"]))
    proto.graph.node.append(helper.make_node("Log", ["back/kept"], [OUTPUT]))
    return replace(teacher, model=checked(proto))


def with_classes(teacher: Teacher, groups: Sequence[Sequence[int]]) -> Teacher:
    """The same graph with other classes at its end.

    A class made of several teacher classes gets the logarithm of the sum of their exponentials: its probability is the
    sum of theirs. A teacher class in no group is dropped: the rest share its probability in proportion.

    Args:
        teacher: of K classes.
        groups: for each class of the result, the teacher classes in it, none empty.
    """
    proto, last = _reopened(teacher)
    nodes, initializers = proto.graph.node, proto.graph.initializer
    width = max(map(len, groups))
    members = np.zeros((len(groups), width), np.int64)
    absent = np.zeros((len(groups), width), np.float32)
    for row, group in enumerate(groups):
        members[row, : len(group)] = group
        absent[row, len(group) :] = -np.inf
    if width == 1:
        initializers.append(numpy_helper.from_array(members[:, 0], "back/members"))
        nodes.append(helper.make_node("Gather", [last, "back/members"], [OUTPUT], axis=1))  # (B, K')
    else:
        initializers.append(numpy_helper.from_array(members, "back/members"))
        initializers.append(numpy_helper.from_array(absent, "back/absent"))
        nodes.append(helper.make_node("Gather", [last, "back/members"], ["back/gathered"], axis=1))  # (B, K', width)
        nodes.append(helper.make_node("Add", ["back/gathered", "back/absent"], ["back/masked"]))
        nodes.extend(_log_sum_exp(proto))
    _declare(proto, len(groups))
    return replace(teacher, model=checked(proto), classes=len(groups), names=())


def _log_sum_exp(proto: onnx.ModelProto) -> list[onnx.NodeProto]:
    """back/masked (B, K', width) -> OUTPUT (B, K'), with the largest taken out first: exp of a logit may overflow."""
    opset = next(entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx"))
    proto.graph.initializer.append(numpy_helper.from_array(np.array([2]), "back/axis"))

    def reduce(kind: str, since: int, source: str, target: str, keep: int) -> onnx.NodeProto:
        if opset >= since:
            return helper.make_node(kind, [source, "back/axis"], [target], keepdims=keep)
        return helper.make_node(kind, [source], [target], axes=[2], keepdims=keep)

    squeeze = (
        helper.make_node("Squeeze", ["back/summit", "back/axis"], ["back/top"])
        if opset >= 13
        else helper.make_node("Squeeze", ["back/summit"], ["back/top"], axes=[2])
    )
    return [
        reduce("ReduceMax", _AXES_ARE_INPUT, "back/masked", "back/summit", 1),
        helper.make_node("Sub", ["back/masked", "back/summit"], ["back/below"]),
        helper.make_node("Exp", ["back/below"], ["back/powers"]),
        reduce("ReduceSum", 13, "back/powers", "back/sum", 0),
        helper.make_node("Log", ["back/sum"], ["back/log"]),
        squeeze,
        helper.make_node("Add", ["back/log", "back/top"], [OUTPUT]),
    ]


def _reopened(teacher: Teacher) -> tuple[onnx.ModelProto, str]:
    """The model with its last value renamed, so that new nodes can make OUTPUT; and that value's name."""
    proto = parse(teacher.model)
    number = sum(node.op_type == "Identity" and node.name.startswith("back/open") for node in proto.graph.node)
    last = f"back/answers{number}"
    for node in proto.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                if name == OUTPUT:
                    names[i] = last
    proto.graph.node.append(helper.make_node("Identity", [last], [f"{last}/open"], name=f"back/open{number}"))
    return proto, f"{last}/open"


def _declare(proto: onnx.ModelProto, classes: int) -> None:
    del proto.graph.output[:]
    proto.graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", classes]))
