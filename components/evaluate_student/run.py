"""The final table: teacher, vanilla, student fp32 and int8 on the test split, which nothing else has read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.conversion import read_model
from edgedistill.dataset import ImageRow, read_dataset, read_pixels
from edgedistill.images import center_view
from edgedistill.inference import Student
from edgedistill.metrics import agreement, describe, gap_closed, median_ms, net_lost
from edgedistill.progress import Progress
from edgedistill.scores import read_logits
from edgedistill.steps import Manifest, Step
from edgedistill.storage import ObjectStore, canonical_json, digest, open_store

Logits = NDArray[np.float32]
GOLDEN = 10  # test images at most whose int8 answers go into the bundle


def run(
    *,
    store: str,
    images: Manifest,
    teacher: Manifest,
    scores: Manifest,
    student: Manifest,
    vanilla: Manifest,
    models: Manifest,
    progress: Progress,
) -> Manifest:
    """Measure everything once.

    Args:
        store: address of the object store.
        images: what ingest_images made.
        teacher: what publish_teacher made.
        scores: what score_teacher made; its centre views of the test split are the teacher's answers.
        student: what distill_student made.
        vanilla: its twin's.
        models: what quantize_student made.
        progress: told after each model.

    Returns:
        outputs: metrics of teacher, vanilla, student_fp32 and student_int8; kd_gap_closed; int8_net_lost,
        int8_agreement; confusion (K x K counts of the int8 student, or null); predictions (key); golden (keys).
        measured: latency_ms_p50 of each model at batch 1.
    """
    objects = open_store(store)
    inputs = {"images": images, "teacher": teacher, "scores": scores, "student": student, "vanilla": vanilla}
    step = Step.of(
        objects,
        "evaluate_student",
        module="components.evaluate_student.run",
        inputs={name: manifest.digest for name, manifest in (inputs | {"models": models}).items()},
        libraries=("openvino",),
    )
    if done := step.find():
        return done
    dataset = read_dataset(objects, images)
    rows = dataset.split("test")
    truth = np.array([-1 if row.truth is None else row.truth for row in rows])
    pictures = np.stack([center_view(read_pixels(objects, row), models.outputs["size"]) for row in rows])
    answers, measured = _answers(objects, rows, pictures, teacher, scores, vanilla, models, progress)
    metrics: dict[str, dict[str, Any]] = {
        name: describe(logits, truth, answers["teacher"]) for name, logits in answers.items()
    }
    outputs = {
        "metrics": metrics,
        "sizes": _sizes(objects, teacher, vanilla, models),
        "kd_gap_closed": gap_closed(
            teacher=metrics["teacher"]["top1"],
            vanilla=metrics["vanilla"]["top1"],
            student=metrics["student_fp32"]["top1"],
        ),
        "int8_net_lost": net_lost(answers["student_fp32"], answers["student_int8"], truth),
        "int8_agreement": agreement(answers["student_int8"], answers["student_fp32"]),
        "confusion": _confusion(answers["student_int8"], truth, len(dataset.classes)),
        "teacher_logits_sample": answers["teacher"][:64].astype(float).round(4).tolist(),
        "golden": _golden(objects, rows, answers["student_int8"]),
    }
    return step.finish(outputs, {"latency_ms_p50": measured})


def _answers(
    store: ObjectStore,
    rows: tuple[ImageRow, ...],
    pictures: NDArray[np.uint8],
    teacher: Manifest,
    scores: Manifest,
    vanilla: Manifest,
    models: Manifest,
    progress: Progress,
) -> tuple[dict[str, Logits], dict[str, float]]:
    """(N, K) logits of each model on the test split, and each model's median latency at batch 1, milliseconds."""
    answers = {
        "teacher": read_logits(store, scores, [row.image_id for row in rows], [0])[:, 0],
    }
    latency: dict[str, float] = {}
    progress.update(1, total=3, note="students")
    made = {
        "vanilla": vanilla.outputs["model"],
        "student_fp32": models.outputs["fp32"],
        "student_int8": models.outputs["int8"],
    }
    for name, keys in made.items():
        model = Student(read_model(store, keys))
        answers[name] = model.logits(pictures)
        latency[name] = median_ms(lambda model=model: model.logits(pictures[:1]))  # type: ignore[misc]
    progress.update(2, total=3, note="teacher")
    size = teacher.outputs["size"]
    big = Student.from_bytes(store.get(teacher.outputs["model"]))
    one = center_view(read_pixels(store, rows[0]), size)[None]
    latency["teacher"] = median_ms(lambda: big.logits(one))
    return answers, latency


def _sizes(store: ObjectStore, teacher: Manifest, vanilla: Manifest, models: Manifest) -> dict[str, int]:
    return {
        "teacher": len(store.get(teacher.outputs["model"])),
        "vanilla": vanilla.outputs["model"]["size_bytes"],
        "student_fp32": models.outputs["fp32"]["size_bytes"],
        "student_int8": models.outputs["int8"]["size_bytes"],
    }


def _confusion(logits: Logits, truth: NDArray[np.int64], classes: int) -> list[list[int]] | None:
    known = truth >= 0
    if not known.any():
        return None
    table = np.zeros((classes, classes), int)
    np.add.at(table, (truth[known], logits.argmax(axis=1)[known]), 1)
    counts: list[list[int]] = table.tolist()
    return counts


def _golden(store: ObjectStore, rows: tuple[ImageRow, ...], int8: Logits) -> dict[str, Any]:
    """The surest answer of each class: a golden image checks the file and the runtime, not the student's doubt."""
    two = np.sort(int8, axis=1)[:, -2:]
    chosen: dict[int, int] = {}
    for i in np.argsort(-(two[:, 1] - two[:, 0]), kind="stable"):
        chosen.setdefault(int(int8[i].argmax()), int(i))
    picked = sorted(chosen.values())[:GOLDEN]
    golden = [{"key": rows[i].key, "logits": int8[i].astype(float).round(5).tolist()} for i in picked]
    key = f"golden/{digest(canonical_json(golden))}.json"
    store.put(key, canonical_json(golden))
    return {"key": key, "images": len(golden)}
