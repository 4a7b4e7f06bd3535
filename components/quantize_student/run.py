"""The student as int8: a ladder of methods that ends where int8 agrees with fp32, and keeps the best rung."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.config import QuantizeConfig, load
from edgedistill.conversion import read_model, store_model
from edgedistill.dataset import ImageRow, read_dataset, read_pixels
from edgedistill.images import center_view
from edgedistill.inference import Student
from edgedistill.metrics import agreement, gate, net_lost
from edgedistill.progress import Progress
from edgedistill.steps import Manifest, Step
from edgedistill.storage import ObjectStore, open_store

if TYPE_CHECKING:
    import openvino as ov

RUNGS = ("ptq", "ptq_full_bias_correction")
AGREEMENT = "int8 agreement with fp32"


@dataclass(frozen=True)
class _Tried:
    """What one rung of the ladder gave."""

    rung: str
    model: "ov.Model"
    gates: list[dict[str, Any]]

    @property
    def passed(self) -> bool:
        return all(one["passed"] for one in self.gates)

    @property
    def agreement(self) -> float:
        return next(float(one["value"]) for one in self.gates if one["name"] == AGREEMENT)


def run(*, store: str, images: Manifest, student: Manifest, config: dict[str, Any], progress: Progress) -> Manifest:
    """Quantise.

    Args:
        store: address of the object store.
        images: what ingest_images made; calibration comes from train, the gates from validation.
        student: what distill_student made.
        config: a QuantizeConfig as a mapping.
        progress: told after each rung.

    Returns:
        outputs: fp32 and int8 (keys of xml and bin, and their size_bytes), rung, gates (of the rung that was kept).
        A missed gate is told in the gates; `report_run` ends the run with it and nothing is published.
    """
    settings = load(QuantizeConfig, config)
    objects = open_store(store)
    step = Step.of(
        objects,
        "quantize_student",
        module="components.quantize_student.run",
        inputs={"images": images.digest, "student": student.digest},
        settings=settings,
        libraries=("openvino", "nncf"),
    )
    if done := step.find():
        return done
    dataset = read_dataset(objects, images)
    size = student.outputs["size"]
    calibration = _pictures(objects, dataset.split("train")[: settings.calibration], size)
    validation = dataset.split("validation")
    pictures = _pictures(objects, validation, size)
    truth = np.array([-1 if row.truth is None else row.truth for row in validation])
    fp32_model = read_model(objects, student.outputs["model"])
    fp32 = Student(fp32_model.clone()).logits(pictures)
    tried: list[_Tried] = []
    for rung in RUNGS:
        model = _quantize(fp32_model, calibration, full=rung != "ptq")
        gates = _gates(fp32, Student(model.clone()).logits(pictures), truth, settings)
        tried.append(_Tried(rung, model, gates))
        progress.update(len(tried), total=len(RUNGS), note=rung)
        if tried[-1].passed and tried[-1].agreement >= settings.enough_agreement:
            break
    best = max(tried, key=lambda one: (one.passed, one.agreement))
    outputs = {"fp32": student.outputs["model"], "int8": store_model(objects, best.model)}
    return step.finish(outputs | {"rung": best.rung, "gates": best.gates, "size": size})


def _gates(
    fp32: NDArray[np.float32], int8: NDArray[np.float32], truth: NDArray[np.int64], settings: QuantizeConfig
) -> list[dict[str, Any]]:
    """Where no label is known for measuring, fp32's own answer stands for it: then every changed image is a loss."""
    labels = np.where(truth >= 0, truth, fp32.argmax(axis=1))
    lost = net_lost(fp32, int8, labels)
    limit = max(settings.max_lost_count, settings.max_lost_share * len(labels))
    same = agreement(int8, fp32)
    return [
        gate("int8 net images lost", lost, limit, lost <= limit),
        gate(AGREEMENT, same, settings.min_agreement, same >= settings.min_agreement),
    ]


def _pictures(store: ObjectStore, rows: tuple[ImageRow, ...], size: int) -> NDArray[np.uint8]:
    return np.stack([center_view(read_pixels(store, row), size) for row in rows])


def _quantize(model: "ov.Model", calibration: NDArray[np.uint8], *, full: bool) -> "ov.Model":
    import nncf

    return nncf.quantize(
        model.clone(),
        nncf.Dataset([picture[None] for picture in calibration]),
        subset_size=len(calibration),
        fast_bias_correction=not full,
    )
