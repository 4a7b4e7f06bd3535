"""Tiny ONNX teachers, built node by node: what they answer can be computed by hand."""

from collections.abc import Sequence

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper


def channel_teacher(
    weights: NDArray[np.float32],
    *,
    size: int = 8,
    tail: Sequence[onnx.NodeProto] = (),
    extra: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
    batch: int | str = "batch",
    pixels: int | None = None,
    metadata: dict[str, str] | None = None,
) -> bytes:
    """ONNX: float (B, 3, S, S) -> mean of each channel (B, 3) @ weights (3, K) -> tail -> answer (B, K).

    The tail reads `scores` and makes `answer`.
    """
    nodes = [
        helper.make_node("GlobalAveragePool", ["input"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"], axis=1),
        helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
        *(tail or [helper.make_node("Identity", ["scores"], ["answer"])]),
    ]
    side = size if pixels is None else pixels
    graph = helper.make_graph(
        nodes,
        "teacher",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, side or "h", side or "w"])],
        [helper.make_tensor_value_info("answer", TensorProto.FLOAT, [batch, weights.shape[1]])],
        [numpy_helper.from_array(weights.astype(np.float32), "weights"), *extra],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    helper.set_model_props(model, metadata or {})
    data: bytes = model.SerializeToString()
    return data


def pictures(count: int = 4, size: int = 8) -> NDArray[np.uint8]:
    """(count, size, size, 3) uint8, each different."""
    return np.random.default_rng(5).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def colour_means(images: NDArray[np.uint8], mean: float = 0.5, std: float = 0.5) -> NDArray[np.float64]:
    """(B, 3): what a channel teacher sees."""
    scaled: NDArray[np.float64] = ((images / 255 - mean) / std).mean(axis=(1, 2))
    return scaled
