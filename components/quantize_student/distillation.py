"""The ladder's third rung: the int8 student goes on learning from the teacher's stored logits."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from components.quantize_student.fake_quantize import FakeQuantized
from edgedistill.config import DistillConfig, learning_rate
from edgedistill.dataset import ImageRow
from edgedistill.errors import TrainingError
from edgedistill.inference import Student
from edgedistill.losses import distillation
from edgedistill.progress import Progress
from edgedistill.scores import read_logits
from edgedistill.steps import Manifest
from edgedistill.storage import ObjectStore
from edgedistill.training import Schedule, fit, predict, render_views
from edgedistill.views import ViewPolicy

if TYPE_CHECKING:
    import openvino as ov


OFF = 0.25  # a graph that is read wrongly is off by about 1; 0.02 to 0.12 was seen where it is right


@dataclass(frozen=True)
class Lessons:
    """What the student was distilled with; the rung sees the same views and the same answers."""

    store: ObjectStore
    rows: tuple[ImageRow, ...]  # of the training split
    scores: Manifest
    policy: ViewPolicy
    distill: DistillConfig


def distil(
    model: "ov.Model", lessons: Lessons, *, size: int, epochs: int, lr_share: float, progress: Progress
) -> "ov.Model":
    """Train the weights and biases of an int8 graph, its ranges held.

    Args:
        model: of `nncf.quantize` with float weights in front of their FakeQuantize; it is left as it is.
        lessons: images, views, logits and the loss's settings.
        size: of the student's input, pixels.
        epochs: how long.
        lr_share: peak learning rate, as a share of the distillation's.
        progress: told after each epoch.

    Returns:
        The trained graph, its weights float again.

    Raises:
        TrainingError: the graph cannot be trained here, or the loss is no finite number.
    """
    numbers = range(lessons.scores.outputs["views"] + 1)
    views = render_views(lessons.store, lessons.rows, lessons.policy, views=numbers, size=size)
    ids = [row.image_id for row in lessons.rows]
    teacher = read_logits(lessons.store, lessons.scores, ids, numbers)  # (N, V, K) float16
    labels = torch.tensor([-1 if row.label is None else row.label for row in lessons.rows])
    settings = lessons.distill
    module = FakeQuantized(model.clone())
    _check(module, model, views[:16, 0])
    fit(
        module,
        views,
        lambda logits, image, view: distillation(
            logits,
            torch.from_numpy(teacher[image, view]).float(),  # (B, K)
            labels[image],
            temperature=settings.temperature,
            alpha=settings.alpha,
        ),
        Schedule(epochs, settings.batch, learning_rate(settings.arch, settings.lr) * lr_share, 0.0, settings.seed),
        progress=progress,
        note="qad",
    )
    return module.trained()


def _check(
    module: FakeQuantized, model: "ov.Model", pictures: "np.ndarray[tuple[int, ...], np.dtype[np.uint8]]"
) -> None:
    """The torch graph must answer as OpenVINO does, or something else than the deployed student would be trained."""
    ours, theirs = predict(module, pictures), Student(model.clone()).logits(pictures)
    # A mean: a value between two levels may fall to either side, and a range with few levels makes much of it.
    off = float(np.abs(ours - theirs).mean() / max(float(theirs.std()), 1e-6))
    if not off <= OFF:
        raise TrainingError(
            f"the int8 graph in torch is {off:.0%} of the logits' deviation off OpenVINO's answers, expected {OFF:.0%} "
            "at most; set quantize.last_rung=ptq_full_bias_correction"
        )
