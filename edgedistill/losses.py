"""Distillation losses on logits."""

import torch.nn.functional as F
from torch import Tensor

from edgedistill.errors import ConfigError


def kl_at_temperature(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T^2 * KL(softmax(teacher / T) || softmax(student / T)), mean over the batch.

    Hinton, Vinyals, Dean 2015, "Distilling the Knowledge in a Neural Network", section 2. The gradient of the soft
    targets shrinks as 1 / T^2, so T^2 keeps its weight beside the hard labels' when T is tuned.

    Args:
        student: (B, K) logits.
        teacher: (B, K) logits, no gradient.
        temperature: T > 0.

    Raises:
        ConfigError: T is not positive.
    """
    if temperature <= 0:
        raise ConfigError(f"temperature {temperature} is not above 0; 1 to 9 are usual, for example 4")
    log_p = F.log_softmax(student / temperature, dim=1)
    log_q = F.log_softmax(teacher / temperature, dim=1)
    return F.kl_div(log_p, log_q, reduction="batchmean", log_target=True) * temperature**2


def distillation(student: Tensor, teacher: Tensor, labels: Tensor, *, temperature: float, alpha: float) -> Tensor:
    """KL at temperature T on every image plus alpha times the cross-entropy on the labelled few.

    Args:
        student: (B, K) logits.
        teacher: (B, K) logits of the same views.
        labels: (B,) int64; -1 where there is no label.
        temperature: T > 0.
        alpha: weight of the cross-entropy, 0 turns it off.
    """
    loss = kl_at_temperature(student, teacher, temperature)
    known = labels >= 0
    if alpha and bool(known.any()):
        # Divided by the whole batch: a batch with one labelled image must not give it a batch's weight.
        loss = loss + alpha * F.cross_entropy(student[known], labels[known], reduction="sum") / len(labels)
    return loss
