"""Train a teacher on the labelled part of a data set, and write it as ONNX with a float input, as others would."""

from dataclasses import asdict
from typing import Any

from edgedistill.config import TrainTeacherConfig, load
from edgedistill.dataset import read_dataset
from edgedistill.errors import DatasetError
from edgedistill.progress import Progress
from edgedistill.steps import Manifest, Step
from edgedistill.storage import digest, open_store

VIEWS = 9  # random views an image, beside the centre view


def run(*, store: str, images: Manifest, policy: str, config: dict[str, Any], progress: Progress) -> Manifest:
    """Fit the network of `config.arch` on the labelled training images.

    Args:
        store: address of the object store.
        images: what ingest_images made.
        policy: name of the view policy that augments.
        config: a TrainTeacherConfig as a mapping.
        progress: told after each epoch.

    Returns:
        outputs: onnx (key of the model in the store), labels_used, classes, size, mean, std.

    Raises:
        DatasetError: no labelled image.
        TrainingError: the loss is no finite number.
    """
    settings = load(TrainTeacherConfig, config)
    objects = open_store(store)
    step = Step.of(
        objects,
        "train_teacher",
        module="components.train_teacher.run",
        inputs={"images": images.digest, "policy": policy},
        settings=settings,
        libraries=("torch", "onnx", "onnxscript"),
    )
    if done := step.find():
        return done
    import torch  # after the look for a finished manifest: a cached step is quick
    from torch.nn.functional import cross_entropy

    from edgedistill.models import MEAN, STD, build
    from edgedistill.training import Schedule, fit, render_views
    from edgedistill.views import policy_named

    dataset = read_dataset(objects, images)
    rows = dataset.labeled
    if not rows:
        raise DatasetError(
            f"data set {dataset.name!r} has no labelled image to train a teacher on; give --teacher FILE"
        )
    labels = torch.tensor([row.label for row in rows])
    views = render_views(objects, rows, policy_named(policy), views=range(VIEWS + 1), size=settings.size)
    torch.manual_seed(settings.seed)
    module = build(settings.arch, len(dataset.classes))
    schedule = Schedule(settings.epochs, settings.batch, settings.lr, settings.weight_decay, settings.seed)
    fit(
        module,
        views,
        lambda logits, image, view: cross_entropy(logits, labels[image], label_smoothing=0.05),
        schedule,
        progress=progress,
        note="teacher",
    )
    model = _to_onnx(module, settings.size)
    key = f"models/{digest(model)}.onnx"
    objects.put(key, model)
    outputs = {"onnx": key, "labels_used": len(rows), "classes": list(dataset.classes), "size": settings.size}
    return step.finish(outputs | {"mean": [MEAN] * 3, "std": [STD] * 3, "settings": asdict(settings)})


def _to_onnx(module: Any, size: int) -> bytes:
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
    return bytes(program.model_proto.SerializeToString())
