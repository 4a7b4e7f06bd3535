"""The student as int8: a ladder of methods that ends where int8 is as good as fp32, and keeps the best rung."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from components.quantize_student.gates import Measured, Validation
from edgedistill.config import RUNGS, DistillConfig, QuantizeConfig, ScoreConfig, load
from edgedistill.conversion import read_model, store_model
from edgedistill.dataset import Dataset, ImageRow, read_dataset, read_pixels
from edgedistill.errors import TrainingError
from edgedistill.images import center_view
from edgedistill.inference import Student
from edgedistill.progress import Progress
from edgedistill.scores import read_logits
from edgedistill.steps import Manifest, Step
from edgedistill.storage import ObjectStore, canonical_json, digest, open_store
from edgedistill.views import policy_named

if TYPE_CHECKING:
    import openvino as ov

    from components.quantize_student.distillation import Lessons


@dataclass(frozen=True)
class _Tried:
    """What one rung of the ladder gave."""

    rung: str
    graph: "ov.Model | None"  # weights still float, so that a later rung can train them; None: it could not be climbed
    measured: Measured | None
    seconds: float
    note: str = ""  # why it could not be climbed

    @property
    def line(self) -> dict[str, Any]:
        """Its entry in the outputs."""
        if self.measured is None:
            return {"rung": self.rung, "gates": [], "passed": False, "note": self.note}
        values = asdict(self.measured) | {"passed": self.measured.passed}
        return {"rung": self.rung, **values}


def run(
    *,
    store: str,
    images: Manifest,
    scores: Manifest,
    student: Manifest,
    config: dict[str, Any],
    distill: dict[str, Any],
    scoring: dict[str, Any],
    progress: Progress,
) -> Manifest:
    """Quantise.

    Args:
        store: address of the object store.
        images: what ingest_images made; calibration and training use train, gates and choice validation.
        scores: what score_teacher made.
        student: what distill_student made.
        config: a QuantizeConfig as a mapping.
        distill: the DistillConfig that the student was trained with; the last rung goes on with its loss.
        scoring: the ScoreConfig of the scores: the views' policy.
        progress: told after each rung, and each epoch of the last.

    Returns:
        outputs: fp32 and int8 (keys of xml and bin, and their size_bytes), rung and gates (of the rung that was kept),
        rungs (of each that was tried: gates, agreement with fp32, teacher_agreement, teacher_kl in nats, passed, or a
        note why it could not be climbed). measured: seconds of each rung.
        A missed gate is told in the gates; `report_run` ends the run with it and nothing is published.
    """
    settings, training = load(QuantizeConfig, config), load(DistillConfig, distill)
    views = load(ScoreConfig, scoring).policy
    objects = open_store(store)
    step = Step.of(
        objects,
        "quantize_student",
        module="components.quantize_student.run",
        inputs={
            **{"images": images.digest, "scores": scores.digest, "student": student.digest},
            "training": digest(canonical_json([asdict(training), views])),
        },
        settings=settings,
        libraries=("openvino", "nncf", "torch", "numpy", "pillow"),
    )
    if done := step.find():
        return done
    dataset = read_dataset(objects, images)
    model = read_model(objects, student.outputs["model"])
    validation = _validation(objects, dataset, scores, model, student.outputs["size"])

    def lessons() -> "Lessons":
        from components.quantize_student.distillation import Lessons  # torch, for the last rung only

        return Lessons(objects, dataset.split("train"), scores, policy_named(views), training)

    tried = _climb(model, objects, dataset, student.outputs["size"], validation, settings, lessons, progress)
    best = max((one for one in tried if one.measured), key=lambda one: one.measured.rank)  # type: ignore[union-attr]
    assert best.graph is not None  # it was measured
    assert best.measured is not None
    outputs = {"fp32": student.outputs["model"], "int8": store_model(objects, compressed(best.graph))}
    outputs |= {"rung": best.rung, "gates": best.measured.gates, "rungs": [one.line for one in tried]}
    seconds = {one.rung: round(one.seconds, 2) for one in tried}
    return step.finish(outputs | {"size": student.outputs["size"]}, {"seconds": seconds})


def _climb(
    model: "ov.Model",
    store: ObjectStore,
    dataset: Dataset,
    size: int,
    validation: Validation,
    settings: QuantizeConfig,
    lessons: Callable[[], "Lessons"],
    progress: Progress,
) -> list[_Tried]:
    """The rungs in order, to the first that is inside the gates and agrees enough, or to the last that is allowed."""
    calibration = _pictures(store, dataset.split("train")[: settings.calibration], size)
    rungs = RUNGS[: RUNGS.index(settings.last_rung) + 1]
    tried: list[_Tried] = []
    for rung in rungs:
        progress.update(len(tried), total=len(rungs), note=rung)
        began = time.perf_counter()
        try:
            if rung == "qad":
                graph = _distilled(tried[-1].graph, lessons(), size, settings, progress)
            else:
                graph = quantized(model, calibration, full=rung != "ptq")
        except TrainingError as error:  # what was climbed before still counts
            tried.append(_Tried(rung, None, None, time.perf_counter() - began, str(error)))
            break
        measured = validation.measure(compressed(graph), settings)
        tried.append(_Tried(rung, graph, measured, time.perf_counter() - began))
        if measured.passed and measured.agreement >= settings.enough_agreement:
            break
    return tried


def _distilled(
    graph: "ov.Model | None", lessons: "Lessons", size: int, settings: QuantizeConfig, progress: Progress
) -> "ov.Model":
    from components.quantize_student.distillation import distil

    assert graph is not None  # only this rung can fail
    return distil(
        graph, lessons, size=size, epochs=settings.qad_epochs, lr_share=settings.qad_lr_share, progress=progress
    )


def _validation(store: ObjectStore, dataset: Dataset, scores: Manifest, model: "ov.Model", size: int) -> Validation:
    rows = dataset.split("validation")
    pictures = _pictures(store, rows, size)
    truth = np.array([-1 if row.truth is None else row.truth for row in rows])
    teacher = read_logits(store, scores, [row.image_id for row in rows], [0])[:, 0].astype(np.float32)
    return Validation(pictures, truth, teacher, Student(model.clone()).logits(pictures))


def _pictures(store: ObjectStore, rows: tuple[ImageRow, ...], size: int) -> NDArray[np.uint8]:
    return np.stack([center_view(read_pixels(store, row), size) for row in rows])


def quantized(model: "ov.Model", calibration: NDArray[np.uint8], *, full: bool) -> "ov.Model":
    """Post-training quantisation, its weights still float in front of their FakeQuantize.

    Args:
        model: fp32, uint8 NHWC in; it is left as it is.
        calibration: (N, S, S, 3) uint8.
        full: full bias correction, layer by layer; else the fast one.
    """
    import nncf

    return nncf.quantize(
        model.clone(),
        nncf.Dataset([picture[None] for picture in calibration]),
        subset_size=len(calibration),
        fast_bias_correction=not full,
        advanced_parameters=nncf.AdvancedQuantizationParameters(backend_params={"compress_weights": False}),
    )


def compressed(graph: "ov.Model") -> "ov.Model":
    """A copy with int8 weights: what `nncf.quantize` does last, when it is let."""
    from openvino._offline_transformations import compress_quantize_weights_transformation

    model = graph.clone()
    compress_quantize_weights_transformation(model)
    return model
