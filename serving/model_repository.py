"""A Triton model repository: the folder layout that Triton serves, in the store and on a disk."""

import json
from collections.abc import Sequence

from edgedistill.storage import ObjectStore
from serving.onnx_teacher import INPUT, OUTPUT, Teacher

MAX_BATCH = 128
CONFIG = """name: {name}
backend: "{backend}"
max_batch_size: {max_batch}
input [ {{ name: "{input}" data_type: TYPE_UINT8 dims: [ {size}, {size}, 3 ] }} ]
output [ {{ name: "{output}" data_type: TYPE_FP32 dims: [ {classes} ] label_filename: "labels.txt" }} ]
dynamic_batching {{ }}
"""


def config_pbtxt(name: str, *, backend: str, size: int, classes: int) -> str:
    """Triton's model configuration (ModelConfig in text form)."""
    return CONFIG.format(
        name=json.dumps(name),
        backend=backend,
        max_batch=MAX_BATCH,
        input=INPUT,
        output=OUTPUT,
        size=size,
        classes=classes,
    )


def publish(store: ObjectStore, root: str, *, name: str, teacher: Teacher, labels: Sequence[str]) -> None:
    """Write `<root>/<name>/{config.pbtxt,labels.txt,1/model.onnx}`; `root` is what an InferenceService's storageUri
    names."""
    config = config_pbtxt(name, backend="onnxruntime", size=teacher.size, classes=teacher.classes)
    store.put(f"{root}/{name}/1/model.onnx", teacher.model)
    store.put(f"{root}/{name}/labels.txt", "".join(f"{label}\n" for label in labels).encode())
    store.put(f"{root}/{name}/config.pbtxt", config.encode())
