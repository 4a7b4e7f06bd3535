"""The final table: teacher, vanilla, student fp32 and int8 on the test split, which nothing else has read."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.answers import write_answers
from edgedistill.conversion import read_model
from edgedistill.dataset import ImageRow, read_dataset, read_pixels
from edgedistill.images import center_view
from edgedistill.inference import Student
from edgedistill.metrics import MODELS, agreement, describe, gap_closed, median_ms, net_lost
from edgedistill.progress import Progress
from edgedistill.scores import read_logits
from edgedistill.steps import Manifest, Step
from edgedistill.storage import ObjectStore, canonical_json, digest, open_store

Logits = NDArray[np.float32]
GOLDEN = 10  # test images at most whose int8 answers go into the bundle
BLOCK = 256  # pictures held at once
MATRIX = 64  # classes at most in a confusion matrix; the report lists the worst pairs of more


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
        outputs: metrics of teacher, vanilla, student_fp32 and student_int8 (vanilla null when it was not trained;
        what needs labels null where there are none); test_labeled (test images with a label); sizes; kd_gap_closed;
        int8_net_lost; int8_agreement; class_counts (K: test images that the int8 student gives each class);
        confusion (K x K counts of the int8 student, or null); answers (key, see edgedistill.answers); golden (keys).
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
    networks = {"student_fp32": models.outputs["fp32"], "student_int8": models.outputs["int8"]}
    if vanilla.outputs.get("model"):  # absent where nothing has a label
        networks = {"vanilla": vanilla.outputs["model"]} | networks
    answers, measured = _answers(objects, rows, networks, models.outputs["size"], progress)
    theirs = read_logits(objects, scores, [row.image_id for row in rows], [0])[:, 0].astype(np.float32)
    answers = {"teacher": theirs} | answers
    progress.update(len(networks), total=len(networks) + 1, note="teacher")
    measured["teacher"] = _teacher_ms(objects, rows[0], teacher)
    outputs = _measures(answers, truth) | {
        "sizes": {
            "teacher": len(objects.get(teacher.outputs["model"])),
            **{name: keys["size_bytes"] for name, keys in networks.items()},
        },
        "answers": write_answers(objects, rows, truth, answers),
        "golden": _golden(objects, rows, answers["student_int8"]),
    }
    return step.finish(outputs, {"latency_ms_p50": measured})


def _measures(answers: dict[str, Logits], truth: NDArray[np.int64]) -> dict[str, Any]:
    """Everything that is one number or a small table."""
    metrics = {name: describe(logits, truth, answers["teacher"]) for name, logits in answers.items()}
    known = bool((truth >= 0).any())
    fp32, int8 = answers["student_fp32"], answers["student_int8"]
    return {
        "metrics": {name: metrics.get(name) for name in MODELS},
        "test_labeled": int((truth >= 0).sum()),
        "kd_gap_closed": gap_closed(
            teacher=metrics["teacher"]["top1"],
            vanilla=metrics["vanilla"]["top1"] if "vanilla" in metrics else None,
            student=metrics["student_fp32"]["top1"],
        ),
        "int8_net_lost": net_lost(fp32, int8, truth) if known else None,
        "int8_agreement": agreement(int8, fp32),
        "class_counts": np.bincount(int8.argmax(axis=1), minlength=int8.shape[1]).tolist(),
        "confusion": _confusion(int8, truth),
    }


def _answers(
    store: ObjectStore, rows: tuple[ImageRow, ...], networks: dict[str, Any], size: int, progress: Progress
) -> tuple[dict[str, Logits], dict[str, float]]:
    """(N, K) logits of each network on the test split, and its median latency at batch 1, milliseconds.

    The pictures are read once and in blocks: a split need not fit into memory.
    """
    students = {name: Student(read_model(store, keys)) for name, keys in networks.items()}
    first = center_view(read_pixels(store, rows[0]), size)[None]
    latency: dict[str, float] = {}
    for done, (name, student) in enumerate(students.items()):
        progress.update(done, total=len(networks) + 1, note=name)
        latency[name] = median_ms(lambda student=student: student.logits(first))  # type: ignore[misc]
    parts: dict[str, list[Logits]] = {name: [] for name in networks}
    for start in range(0, len(rows), BLOCK):
        block = rows[start : start + BLOCK]
        pictures = np.stack([center_view(read_pixels(store, row), size) for row in block])
        for name, student in students.items():
            parts[name].append(student.logits(pictures))
    return {name: np.concatenate(some) for name, some in parts.items()}, latency


def _teacher_ms(store: ObjectStore, row: ImageRow, teacher: Manifest) -> float:
    """Median latency of the teacher in this process, batch 1, milliseconds."""
    model = Student.from_bytes(store.get(teacher.outputs["model"]))
    picture = center_view(read_pixels(store, row), teacher.outputs["size"])[None]
    return median_ms(lambda: model.logits(picture))


def _confusion(logits: Logits, truth: NDArray[np.int64]) -> list[list[int]] | None:
    """(K, K) counts, truth by answer; None without labels or with so many classes that nobody reads a matrix."""
    known, classes = truth >= 0, logits.shape[1]
    if not known.any() or classes > MATRIX:
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
