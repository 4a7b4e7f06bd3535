"""One training loop for student, vanilla twin and a teacher of our own: rendered views in, a module out.

Everything random is a function of (seed, epoch), so a run that was killed and goes on from a checkpoint ends with the
same weights as one that was not (same machine, same number of threads).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgedistill.ahead import ahead
from edgedistill.dataset import ImageRow, read_pixels
from edgedistill.errors import TrainingError
from edgedistill.images import Pixels
from edgedistill.models import normalise
from edgedistill.progress import Progress
from edgedistill.scratch import scratch_array
from edgedistill.storage import ObjectStore
from edgedistill.views import ViewPolicy, render

Loss = Callable[[Tensor, NDArray[np.int64], NDArray[np.int64]], Tensor]  # (logits, image indices, view numbers)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    epochs: int
    batch: int
    lr: float  # the peak, after a warm-up of a tenth
    weight_decay: float
    seed: int


@dataclass(frozen=True)
class Checkpoint:
    """Where a loop that was killed goes on. `load` gives None when there is nothing yet."""

    load: Callable[[], dict[str, object] | None]
    save: Callable[[int, dict[str, object]], None]
    every: int = 10  # epochs


def render_views(
    store: ObjectStore, rows: Sequence[ImageRow], policy: ViewPolicy, *, views: Sequence[int], size: int
) -> NDArray[np.uint8]:
    """(N, V, size, size, 3) uint8 in a scratch file: each image decoded once, each view rendered at the trainer's size.

    A few images are decoded at a time, in threads; memory does not grow with the data set.
    """
    result = scratch_array((len(rows), len(views), size, size, 3), np.uint8)

    def work(row: ImageRow) -> list[Pixels]:
        pixels = read_pixels(store, row)
        return [render(pixels, policy, image_id=row.image_id, view=view, size=size) for view in views]

    for i, rendered in enumerate(ahead(work, rows, depth=8)):
        result[i] = rendered
    return result


def fit(
    module: nn.Module,
    views: NDArray[np.uint8],
    loss: Loss,
    schedule: Schedule,
    *,
    progress: Progress,
    note: str,
    steps_per_epoch: int | None = None,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> nn.Module:
    """Train with AdamW and a one-cycle cosine; each image gives one random view an epoch.

    Args:
        module: normalised (B, 3, S, S) float32 -> (B, K) logits.
        views: (N, V, S, S, 3) uint8.
        loss: of a batch, from the logits and which image and view each row is.
        schedule: how long and how fast.
        progress: told after each epoch.
        note: shown beside the bar.
        steps_per_epoch: batches an epoch; None: as many as the images fill. The vanilla twin has few images and the
            same number of steps.
        checkpoint: where to go on from.
        on_epoch: called with the epoch and its mean loss.

    Raises:
        TrainingError: the loss is no finite number.
    """
    steps = steps_per_epoch or math.ceil(len(views) / schedule.batch)
    optimizer = torch.optim.AdamW(module.parameters(), lr=schedule.lr, weight_decay=schedule.weight_decay)
    cycle = torch.optim.lr_scheduler.LambdaLR(optimizer, _one_cycle(schedule.epochs * steps))
    first = _resume(module, optimizer, cycle, checkpoint)
    module.to(memory_format=torch.channels_last)
    for epoch in range(first, schedule.epochs):
        module.train()
        torch.manual_seed(schedule.seed * 100_003 + epoch)  # dropout
        draw = np.random.default_rng((schedule.seed, epoch))
        total = 0.0
        for image, view in _batches(draw, len(views), views.shape[1], steps=steps, batch=schedule.batch):
            value = loss(module(normalise(torch.from_numpy(views[image, view]))), image, view)
            if not torch.isfinite(value):
                raise TrainingError(f"the loss is {value.item()} in epoch {epoch}; try a smaller lr than {schedule.lr}")
            optimizer.zero_grad(set_to_none=True)
            value.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cycle.step()
            total += value.item()
        on_epoch(epoch, total / steps)
        progress.update(epoch + 1, total=schedule.epochs, note=f"{note}, loss {total / steps:.3f}")
        if checkpoint and (epoch + 1) % checkpoint.every == 0 and epoch + 1 < schedule.epochs:
            checkpoint.save(epoch + 1, _state(module, optimizer, cycle, epoch + 1))
    return module.eval()


@torch.inference_mode()
def predict(module: nn.Module, pixels: NDArray[np.uint8], *, batch: int = 256) -> NDArray[np.float32]:
    """(N, S, S, 3) uint8 -> (N, K) float32 logits."""
    module.eval()
    parts = [module(normalise(torch.from_numpy(pixels[i : i + batch]))) for i in range(0, len(pixels), batch)]
    result: NDArray[np.float32] = torch.cat(parts).numpy()
    return result


def _batches(
    draw: np.random.Generator, images: int, views: int, *, steps: int, batch: int
) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """`steps` batches that run through random orders of all images, each image with one random view."""
    rounds = math.ceil(steps * batch / images)
    order = np.concatenate([draw.permutation(images) for _ in range(rounds)])
    if rounds == 1:
        chosen = [order[i : i + batch] for i in range(0, images, batch)]
    else:
        chosen = [order[i * batch : (i + 1) * batch] for i in range(steps)]
    # Batch normalisation cannot train on one image.
    return [(part, draw.integers(0, views, len(part))) for part in chosen if len(part) > 1]


def _one_cycle(steps: int) -> Callable[[int], float]:
    warm = max(1, steps // 10)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / warm
        return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))

    return factor


def _state(
    module: nn.Module, optimizer: torch.optim.Optimizer, cycle: torch.optim.lr_scheduler.LRScheduler, epoch: int
) -> dict[str, object]:
    scheduled = {k: v for k, v in cycle.state_dict().items() if k != "lr_lambdas"}
    return {"module": module.state_dict(), "optimizer": optimizer.state_dict(), "cycle": scheduled, "epoch": epoch}


def _resume(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    cycle: torch.optim.lr_scheduler.LRScheduler,
    checkpoint: Checkpoint | None,
) -> int:
    state = checkpoint.load() if checkpoint else None
    if state is None:
        return 0
    module.load_state_dict(state["module"])  # type: ignore[arg-type]
    optimizer.load_state_dict(state["optimizer"])  # type: ignore[arg-type]
    cycle.load_state_dict({**state["cycle"], "lr_lambdas": [None]})  # type: ignore[dict-item]
    return int(state["epoch"])  # type: ignore[call-overload,no-any-return]
