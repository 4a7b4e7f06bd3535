"""Somebody else's classifier in, a Triton model repository out: probed with a real image before anyone relies on it."""

from pathlib import Path
from typing import Any

import numpy as np

from edgedistill.config import TeacherConfig, load
from edgedistill.dataset import Dataset, read_dataset, read_pixels
from edgedistill.errors import TeacherError
from edgedistill.images import center_view
from edgedistill.progress import Progress
from edgedistill.steps import Manifest, Step
from edgedistill.storage import ObjectStore, digest, open_store

STORED = "store:"  # prefix of a teacher that lies in the object store already


def run(*, store: str, images: Manifest, teacher: str, config: dict[str, Any], progress: Progress) -> Manifest:
    """Check the teacher, fold its preprocessing in, and write its model repository.

    Args:
        store: address of the object store.
        images: what ingest_images made; the teacher must have as many classes, in the same order.
        teacher: path of an ONNX file, or `store:KEY`.
        config: a TeacherConfig as a mapping.
        progress: unused; the step takes a second.

    Returns:
        outputs: name, digest, repository (prefix of the model repository), model (key), size, classes.

    Raises:
        TeacherError: no such file, no ONNX classifier, other classes, or an answer that is not finite.
    """
    settings = load(TeacherConfig, config)
    objects = open_store(store)
    model = _read(objects, teacher)
    step = Step.of(
        objects,
        "publish_teacher",
        module="components.publish_teacher.run",
        inputs={"images": images.digest, "teacher": digest(model)},
        settings=settings,
        libraries=("onnx", "openvino"),
    )
    if done := step.find():
        return done
    from serving.model_repository import publish
    from serving.onnx_teacher import fold_preprocessing

    folded = fold_preprocessing(model, mean=settings.mean, std=settings.std)
    dataset = read_dataset(objects, images)
    if folded.classes != len(dataset.classes):
        raise TeacherError(
            f"the teacher has {folded.classes} classes, the data set {dataset.name!r} has {len(dataset.classes)}; "
            "give a teacher of the same classes"
        )
    _probe(objects, dataset, folded.model, folded.size)
    name = digest(folded.model)
    root = f"teachers/{settings.name}/{name}"
    publish(objects, root, name=settings.name, teacher=folded, labels=dataset.classes)
    return step.finish(
        {
            "name": settings.name,
            "digest": name,
            "repository": root,
            "model": f"{root}/{settings.name}/1/model.onnx",
            "size": folded.size,
            "classes": folded.classes,
        }
    )


def _read(store: ObjectStore, teacher: str) -> bytes:
    if teacher.startswith(STORED):
        return store.get(teacher.removeprefix(STORED))
    path = Path(teacher)
    if not path.is_file():
        raise TeacherError(f"no teacher at {teacher!r}; give the path of an ONNX file, --teacher FILE.onnx")
    return path.read_bytes()


def _probe(store: ObjectStore, dataset: Dataset, model: bytes, size: int) -> None:
    """One real image, asked once: a graph that loads but cannot answer must fail here, not in the middle of scoring."""
    from edgedistill.inference import Student

    image = center_view(read_pixels(store, dataset.rows[0]), size)
    try:
        logits = Student.from_bytes(model).logits(image[None])
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise TeacherError(f"the teacher loads but gives no answer to a real image: {reason}") from error
    if logits.shape != (1, len(dataset.classes)) or not np.isfinite(logits).all():
        raise TeacherError(f"the teacher answered {logits.tolist()} to a real image; expected finite logits")
