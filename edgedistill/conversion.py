"""From torch to OpenVINO, and OpenVINO models in the store."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgedistill.storage import ObjectStore, digest

if TYPE_CHECKING:
    import openvino as ov
    from torch import nn


def to_openvino(module: "nn.Module", size: int) -> "ov.Model":
    """The module with its uint8 NHWC front: `image` uint8 (B, size, size, 3) -> `logits` float32 (B, K)."""
    import openvino as ov
    import torch

    from edgedistill.models import Deployable

    module = module.to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    batch = torch.export.Dim("batch", min=1, max=1024)
    program = torch.export.export(Deployable(module).eval(), (example,), dynamic_shapes=({0: batch},))
    model = ov.convert_model(program)
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model


def to_bytes(model: "ov.Model") -> tuple[bytes, bytes]:
    """A model's IR: xml, and the weights. Equal models give equal bytes.

    OpenVINO and NNCF name a new node by a counter of the process: here every node inside is named by its place.
    """
    import openvino as ov

    named = model.clone()
    for place, node in enumerate(named.get_ordered_ops()):
        if node.get_type_name() not in ("Parameter", "Result"):
            node.set_friendly_name(f"{node.get_type_name()}_{place}")
            for output in node.outputs():
                if not any(target.get_node().get_type_name() == "Result" for target in output.get_target_inputs()):
                    output.get_tensor().set_names(set())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        # No fp16 compression: rounding an int8 graph's float constants after the gates would change what they measured.
        ov.save_model(named, path, compress_to_fp16=False)
        return path.read_bytes(), path.with_suffix(".bin").read_bytes()


def store_model(store: ObjectStore, model: "ov.Model") -> dict[str, Any]:
    """Write a model's IR; gives its keys `xml` and `bin`, and size_bytes of both together."""
    xml, weights = to_bytes(model)
    root = f"models/{digest(xml + weights)}"
    store.put(f"{root}/model.xml", xml)
    store.put(f"{root}/model.bin", weights)
    return {"xml": f"{root}/model.xml", "bin": f"{root}/model.bin", "size_bytes": len(xml) + len(weights)}


def read_model(store: ObjectStore, keys: dict[str, Any]) -> "ov.Model":
    """The model that `store_model` wrote."""
    import openvino as ov

    return ov.Core().read_model(store.get(keys["xml"]), store.get(keys["bin"]))
