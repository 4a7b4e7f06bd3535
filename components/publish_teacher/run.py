"""Somebody else's classifier in, a Triton model repository out: probed with real images before anyone relies on it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgedistill.config import TeacherConfig, load
from edgedistill.dataset import Dataset, read_dataset, read_pixels
from edgedistill.errors import TeacherError
from edgedistill.images import Pixels, center_view
from edgedistill.progress import Progress
from edgedistill.steps import Manifest, Step
from edgedistill.storage import STORED, ObjectStore, digest, open_store

if TYPE_CHECKING:
    from serving.onnx_teacher import Teacher

MEAN = STD = (0.5, 0.5, 0.5)  # of a float ONNX teacher that nobody described


def run(*, store: str, images: Manifest, teacher: str, config: dict[str, Any], progress: Progress) -> Manifest:
    """Check the teacher, fold its preprocessing and its classes into the graph, and write its model repository.

    Args:
        store: address of the object store.
        images: what ingest_images made.
        teacher: path of an ONNX file, `store:KEY`, or `timm:NAME[@FILE]` or `torchvision:NAME[@FILE]` with a file of
            weights or the library's own.
        config: a TeacherConfig as a mapping.
        progress: told what takes long: the export of a library's net.

    Returns:
        outputs: name, digest, repository (prefix of the model repository), model (key), size, classes, labels (the
        class names that everything downstream uses), notes (sentences).

    Raises:
        TeacherError: no such file, no ONNX classifier, other classes, or answers that cannot be relied on.
    """
    settings = load(TeacherConfig, config)
    objects = open_store(store)
    source = _source(objects, teacher)
    text = _map(objects, settings.labels)
    step = Step.of(
        objects,
        "publish_teacher",
        module="components.publish_teacher.run",
        inputs={"images": images.digest, "teacher": source.digest} | ({"map": digest(text.encode())} if text else {}),
        settings=settings,
        libraries=("onnx", "openvino", *source.libraries),
    )
    if done := step.find():
        return done
    from serving.model_repository import publish

    progress.update(0, total=1, note=f"checking {teacher}")
    dataset = read_dataset(objects, images)
    folded, labels, notes = _adapt(objects, dataset, source.open(settings), settings, text)
    notes = _trained_here(folded, images) + notes
    name = digest(folded.model)
    root = f"teachers/{settings.name}/{name}"
    publish(objects, root, name=settings.name, teacher=folded, labels=labels)
    return step.finish(
        {
            "name": settings.name,
            "digest": name,
            "repository": root,
            "model": f"{root}/{settings.name}/1/model.onnx",
            "size": folded.size,
            "classes": folded.classes,
            "labels": labels,
            "notes": notes,
        }
    )


@dataclass(frozen=True)
class _Given:
    """A teacher as ONNX, and what is known about it beside the file."""

    model: bytes
    mean: tuple[float, ...] = MEAN
    std: tuple[float, ...] = STD
    names: tuple[str, ...] = ()  # of its classes
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Source:
    """Where a teacher comes from: enough for the step's key, without torch."""

    digest: str
    libraries: tuple[str, ...]  # whose versions change what it is
    open: Callable[[TeacherConfig], _Given]


def _source(store: ObjectStore, teacher: str) -> _Source:
    from serving.onnx_teacher import read_onnx
    from serving.teacher_library import export, parse_library

    if library := parse_library(teacher):

        def exported(settings: TeacherConfig) -> _Given:
            made = export(library, size=settings.size)
            return _Given(made.model, made.mean, made.std, made.names, made.notes)

        name = digest(f"{library.library}:{library.name}@{library.digest}".encode())
        return _Source(name, ("torch", "onnxscript", library.library), exported)
    stored = teacher.startswith(STORED)
    model = store.get(teacher.removeprefix(STORED)) if stored else read_onnx(Path(teacher))
    return _Source(digest(model), (), lambda settings: _Given(model))


def absolute_teacher(teacher: str) -> str:
    """The same teacher, whatever folder a step runs in. Raises TeacherError when a weights file is not there."""
    from serving.teacher_library import parse_library

    if teacher.startswith(STORED):
        return teacher
    if library := parse_library(teacher):
        return f"{library.library}:{library.name}" + (f"@{library.weights}" if library.weights else "")
    return str(Path(teacher).resolve())


def _map(store: ObjectStore, labels: str) -> str | None:
    if not labels:
        return None
    if labels.startswith(STORED):
        return store.get(labels.removeprefix(STORED)).decode()
    return read_map_file(Path(labels))


def read_map_file(path: Path) -> str:
    """The text of a map of the teacher's classes. Raises TeacherError when there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise TeacherError(
            f"no map of the teacher's classes at {str(path)!r}; give a CSV file of teacher,class"
        ) from error


def _adapt(
    store: ObjectStore, dataset: Dataset, given: _Given, settings: TeacherConfig, text: str | None
) -> tuple["Teacher", list[str], list[str]]:
    """The teacher as it will be served, its class names, and sentences about what was done to it."""
    from serving.onnx_teacher import fold_preprocessing
    from serving.teacher_answers import with_classes
    from serving.teacher_labels import choose
    from serving.teacher_probe import probe, to_logits

    mean, std = settings.mean or given.mean, settings.std or given.std
    folded = fold_preprocessing(given.model, mean=mean, std=std, size=settings.size, crop=settings.crop)
    if folded.classes < 2:
        raise TeacherError("the teacher has one class; expected a classifier of two or more")
    chosen = choose(classes=dataset.classes, count=folded.classes, names=folded.names or given.names, text=text)
    pictures = _pictures(store, dataset, folded.size)
    folded, notes = to_logits(folded, probe(folded, pictures))
    if chosen.groups:
        folded = with_classes(folded, chosen.groups)
    probe(folded, pictures)  # as it will be served
    return folded, list(chosen.labels), [*given.notes, *notes, *chosen.notes]


def _trained_here(teacher: "Teacher", images: Manifest) -> list[str]:
    from serving.onnx_export import LABELS_USED, REVISION

    if teacher.metadata.get(REVISION) != images.outputs["revision"]:
        return []
    used = int(teacher.metadata[LABELS_USED])
    return [f"the teacher was trained here on {used:,} labelled images: it knows no more than your labels"]


def _pictures(store: ObjectStore, dataset: Dataset, size: int) -> Pixels:
    """A few training images: the test split is read by evaluate_student alone."""
    from serving.teacher_probe import BATCH

    rows = dataset.split("train") or dataset.rows
    return np.stack([center_view(read_pixels(store, row), size) for row in rows[:BATCH]])
