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


def store_model(store: ObjectStore, model: "ov.Model") -> dict[str, Any]:
    """Write a model's IR; gives its keys `xml` and `bin`, and size_bytes of both together."""
    import openvino as ov

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.xml"
        # No fp16 compression: rounding an int8 graph's float constants after the gates would change what they measured.
        ov.save_model(model, path, compress_to_fp16=False)
        xml, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    root = f"models/{digest(xml + weights)}"
    store.put(f"{root}/model.xml", xml)
    store.put(f"{root}/model.bin", weights)
    return {"xml": f"{root}/model.xml", "bin": f"{root}/model.bin", "size_bytes": len(xml) + len(weights)}


def read_model(store: ObjectStore, keys: dict[str, Any]) -> "ov.Model":
    """The model that `store_model` wrote."""
    import openvino as ov

    return ov.Core().read_model(store.get(keys["xml"]), store.get(keys["bin"]))
