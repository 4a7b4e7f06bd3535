"""Train the student on the teacher's answers; or its vanilla twin on the labels alone, with the same budget."""

import io
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from edgedistill.config import DistillConfig, ScoreConfig, learning_rate, load
from edgedistill.dataset import Dataset, ImageRow, read_dataset
from edgedistill.errors import DatasetError
from edgedistill.metrics import agreement, top_k
from edgedistill.progress import Progress
from edgedistill.scores import check_scores, read_logits
from edgedistill.steps import Manifest, Step
from edgedistill.storage import ObjectStore, digest, open_store
from edgedistill.views import ViewPolicy, policy_named

if TYPE_CHECKING:
    from edgedistill.training import Checkpoint, Loss

MODES = ("student", "vanilla")


def run(
    *,
    store: str,
    mode: str,
    images: Manifest,
    teacher: Manifest,
    scores: Manifest,
    config: dict[str, Any],
    scoring: dict[str, Any],
    progress: Progress,
) -> Manifest:
    """Train one network.

    Args:
        store: address of the object store.
        mode: `student` (the teacher's logits on every view, labels where known) or `vanilla` (labels alone).
        images: what ingest_images made.
        teacher: what publish_teacher made; the scores must be its.
        scores: what score_teacher made.
        config: a DistillConfig as a mapping.
        scoring: the ScoreConfig that the scores were made with: the views' policy and number.
        progress: told after each epoch.

    Returns:
        outputs: weights (key, safetensors), model (fp32 OpenVINO: keys xml and bin, size_bytes), arch, size,
        classes, mode, parameters, lr, history (one entry an epoch), notes. Of a vanilla twin without any label only
        mode, and model null.

    Raises:
        ConfigError: no such architecture, or one that cannot take the size.
        DatasetError: no training image, or scores of another revision.
        TeacherError: scores of another teacher, policy or number of views.
        TrainingError: the loss is no finite number.
    """
    settings = load(DistillConfig, config)
    objects = open_store(store)
    told = load(ScoreConfig, scoring)
    policy = policy_named(told.policy)
    check_scores(scores, teacher=teacher.outputs["digest"], policy=policy.digest, views=told.views)
    step = Step.of(
        objects,
        "distill_student",
        module="components.distill_student.run",
        inputs={"images": images.digest, "scores": scores.digest, "mode": mode},
        settings=settings,
        libraries=("torch", "numpy", "pillow", "openvino"),
    )
    if found := step.find():
        return found
    from safetensors.torch import save

    from edgedistill.conversion import store_model, to_openvino
    from edgedistill.models import parameters

    dataset = read_dataset(objects, images)
    if mode == "vanilla" and not dataset.labeled:
        return step.finish({"mode": mode, "model": None})
    module, history, notes = _train(step, dataset, scores, policy, mode, settings, progress)
    weights = save({name: tensor.contiguous() for name, tensor in module.state_dict().items()})
    key = f"students/{digest(weights)}.safetensors"
    objects.put(key, weights)
    outputs = {
        "weights": key,
        "model": store_model(objects, to_openvino(module, settings.size)),
        "arch": settings.arch,
        "size": settings.size,
        "classes": len(scores.outputs["labels"]),
        "mode": mode,
        "parameters": parameters(module),
        "lr": learning_rate(settings.arch, settings.lr),
        "history": history,
        "notes": notes,
    }
    done = step.finish(outputs)
    for checkpoint in list(objects.list(_checkpoint_prefix(step))):
        objects.delete(checkpoint)
    return done


def _train(
    step: Step,
    dataset: Dataset,
    scores: Manifest,
    policy: ViewPolicy,
    mode: str,
    settings: DistillConfig,
    progress: Progress,
) -> tuple[Any, list[dict[str, float | None]], list[str]]:
    """The trained module, its curves on validation, and sentences about what went wrong."""
    import torch

    from edgedistill.models import build
    from edgedistill.training import Schedule, fit, predict, render_views

    numbers = range(scores.outputs["views"] + 1)
    rows = dataset.split("train") if mode == "student" else dataset.labeled
    if not rows:
        raise DatasetError(f"data set {dataset.name!r} has no training image for the {mode}; label some or add images")
    progress.update(0, total=settings.epochs, note=f"{mode}: rendering views")
    views = render_views(step.store, rows, policy, views=numbers, size=settings.size)
    held_out = render_views(step.store, dataset.split("validation"), policy, views=[0], size=settings.size)[:, 0]
    torch.manual_seed(settings.seed)
    module = build(settings.arch, len(scores.outputs["labels"]), size=settings.size)
    measure = _measure(step.store, scores, dataset.split("validation"))
    history: list[dict[str, float | None]] = []

    def on_epoch(epoch: int, loss: float) -> None:
        if epoch % 3 == 0 or epoch + 1 == settings.epochs:
            history.append({"epoch": epoch, "loss": loss, **measure(predict(module, held_out))})

    fit(
        module,
        views,
        _loss(step.store, scores, rows, mode, settings),
        Schedule(
            settings.epochs,
            settings.batch,
            learning_rate(settings.arch, settings.lr),
            settings.weight_decay,
            settings.seed,
        ),
        progress=progress,
        note=mode,
        steps_per_epoch=math.ceil(len(dataset.split("train")) / settings.batch),
        checkpoint=_checkpoints(step, history),
        on_epoch=on_epoch,
    )
    notes = []
    if len(held_out) > 1 and len(set(predict(module, held_out).argmax(axis=1).tolist())) == 1:
        notes.append(
            f"the {mode} gives one answer to all {len(held_out):,} validation images: it learned nothing; give it more "
            "images or epochs, or a smaller --set distill.lr"
        )
    return module, history, notes


def _loss(
    store: ObjectStore, scores: Manifest, rows: tuple[ImageRow, ...], mode: str, settings: DistillConfig
) -> "Loss":
    import torch
    from torch.nn.functional import cross_entropy

    from edgedistill.losses import distillation

    labels = torch.tensor([-1 if row.label is None else row.label for row in rows])
    if mode == "vanilla":
        return lambda logits, image, view: cross_entropy(logits, labels[image])
    numbers = range(scores.outputs["views"] + 1)
    teacher = read_logits(store, scores, [row.image_id for row in rows], numbers)  # (N, V, K) float16

    def loss(logits: Any, image: Any, view: Any) -> Any:
        answers = torch.from_numpy(teacher[image, view]).float()  # (B, K): float16 in float32 is exact
        return distillation(logits, answers, labels[image], temperature=settings.temperature, alpha=settings.alpha)

    return loss


def _measure(
    store: ObjectStore, scores: Manifest, rows: tuple[ImageRow, ...]
) -> Callable[[Any], dict[str, float | None]]:
    """Validation curves: agreement with the teacher, and top-1 and top-5 where labels are known for measuring."""
    import numpy as np

    teacher = read_logits(store, scores, [row.image_id for row in rows], [0])[:, 0].astype(np.float32)
    truth = np.array([-1 if row.truth is None else row.truth for row in rows])
    known = truth >= 0

    def measure(logits: Any) -> dict[str, float | None]:
        tops = {f"top{k}": top_k(logits[known], truth[known], k) if known.any() else None for k in (1, 5)}
        return {"agreement": agreement(logits, teacher)} | tops

    return measure


def _checkpoint_prefix(step: Step) -> str:
    return f"checkpoints/{step.name}/{step.key}/"


def _checkpoints(step: Step, history: list[dict[str, float | None]]) -> "Checkpoint":
    """Checkpoints beside the step's manifest. Torch's format, read with weights_only; never a pickle of code."""
    import torch

    from edgedistill.training import Checkpoint

    prefix = _checkpoint_prefix(step)

    def load_last() -> dict[str, object] | None:
        keys = list(step.store.list(prefix))
        if not keys:
            return None
        state: dict[str, Any] = torch.load(io.BytesIO(step.store.get(keys[-1])), weights_only=True)
        history[:] = state["history"]
        return state

    def save_epoch(epoch: int, state: dict[str, object]) -> None:
        buffer = io.BytesIO()
        torch.save(state | {"history": list(history)}, buffer)
        key = f"{prefix}{epoch:06d}.pt"
        if not step.store.exists(key):
            step.store.put(key, buffer.getvalue())

    return Checkpoint(load_last, save_epoch)
