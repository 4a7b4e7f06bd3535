"""From torch to ONNX: float NCHW in, logits out, any batch."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


REVISION, LABELS_USED = "edgedistill.revision", "edgedistill.labels_used"  # what a teacher trained here says of itself


def to_onnx(module: "nn.Module", size: int, metadata: Mapping[str, str] | None = None) -> bytes:
    """`input` float32 (B, 3, size, size) -> `logits` float32 (B, K). The same module gives the same bytes.

    Args:
        module: normalised float NCHW -> logits.
        size: pixels.
        metadata: goes into the file.

    Raises:
        Exception: whatever torch's exporter raises when the module cannot be traced with an open batch.
    """
    import torch

    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.onnx.export(
        module.eval().to(memory_format=torch.contiguous_format),
        (torch.zeros(2, 3, size, size),),
        input_names=["input"],
        output_names=["logits"],
        dynamic_shapes=({0: batch},),
        dynamo=True,
        verbose=False,
    )
    assert program is not None  # it is None only when a file name is given
    proto = program.model_proto
    # The exporter notes where in the sources each node came from: paths of this machine, and bytes that change with it.
    del proto.metadata_props[:]
    proto.graph.doc_string = ""
    del proto.graph.metadata_props[:]
    for part in (*proto.graph.node, *proto.graph.value_info, *proto.graph.initializer, *proto.functions):
        part.doc_string = ""
        del part.metadata_props[:]
    for key, value in sorted((metadata or {}).items()):
        proto.metadata_props.add(key=key, value=value)
    return bytes(proto.SerializeToString(deterministic=True))
