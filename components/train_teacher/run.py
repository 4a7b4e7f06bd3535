"""Train a teacher on the labelled part of a data set, and write it as ONNX with a float input, as others would."""

import json
from collections import Counter
from dataclasses import asdict
from typing import Any

from edgedistill.config import TrainTeacherConfig, learning_rate, load
from edgedistill.dataset import Dataset, ImageRow, read_dataset
from edgedistill.errors import DatasetError
from edgedistill.progress import Progress
from edgedistill.steps import Manifest, Step
from edgedistill.storage import digest, open_store

VIEWS = 9  # random views an image, beside the centre view
LEAST = 2  # labelled training images of each class


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
        DatasetError: fewer than two classes, or fewer than LEAST labelled training images of one.
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
    from serving.onnx_export import LABELS_USED, REVISION, to_onnx

    dataset = read_dataset(objects, images)
    rows = _labelled(dataset)
    labels = torch.tensor([row.label for row in rows])
    views = render_views(objects, rows, policy_named(policy), views=range(VIEWS + 1), size=settings.size)
    torch.manual_seed(settings.seed)
    module = build(settings.arch, len(dataset.classes), size=settings.size)
    lr = learning_rate(settings.arch, settings.lr)
    schedule = Schedule(settings.epochs, settings.batch, lr, settings.weight_decay, settings.seed)
    fit(
        module,
        views,
        lambda logits, image, view: cross_entropy(logits, labels[image], label_smoothing=0.05),
        schedule,
        progress=progress,
        note="teacher",
    )
    about = {"labels": json.dumps(dataset.classes), REVISION: images.outputs["revision"], LABELS_USED: str(len(rows))}
    model = to_onnx(module, settings.size, about)
    key = f"models/{digest(model)}.onnx"
    objects.put(key, model)
    outputs = {"onnx": key, "labels_used": len(rows), "classes": list(dataset.classes), "size": settings.size}
    return step.finish(outputs | {"mean": [MEAN] * 3, "std": [STD] * 3, "settings": asdict(settings)})


def _labelled(dataset: Dataset) -> tuple[ImageRow, ...]:
    """The labelled part of the training split alone; validation and test stay unseen."""
    hint = "give --teacher FILE, or label more images"
    if len(dataset.classes) < 2:
        raise DatasetError(f"data set {dataset.name!r} has no labels to train a teacher on; {hint}")
    rows = dataset.labeled
    counts = Counter(row.label for row in rows)
    poorest = min(range(len(dataset.classes)), key=lambda label: counts[label])
    if counts[poorest] < LEAST:
        raise DatasetError(
            f"class {dataset.classes[poorest]!r} has {counts[poorest]} labelled training images, a teacher trained "
            f"here needs {LEAST} of each; {hint}, or raise --labeled-fraction"
        )
    return rows
