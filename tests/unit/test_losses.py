"""Properties of the loss and the metrics that hold whatever the numbers."""

import numpy as np
import pytest
import torch
from torch.nn.functional import softmax

from edgedistill.errors import ConfigError
from edgedistill.losses import distillation, kl_at_temperature
from edgedistill.metrics import agreement, describe, gap_closed, net_lost

torch.manual_seed(0)
STUDENT, TEACHER = torch.randn(16, 10), torch.randn(16, 10)


def test_no_loss_where_student_equals_teacher() -> None:
    assert kl_at_temperature(TEACHER, TEACHER, 4.0).item() == pytest.approx(0, abs=1e-6)
    assert kl_at_temperature(STUDENT, TEACHER, 4.0).item() > 0.01


def test_at_temperature_one_it_is_cross_entropy_minus_the_teachers_entropy() -> None:
    p = softmax(TEACHER, 1)
    cross = -(p * torch.log_softmax(STUDENT, 1)).sum(1).mean()
    entropy = -(p * p.log()).sum(1).mean()
    assert kl_at_temperature(STUDENT, TEACHER, 1.0).item() == pytest.approx((cross - entropy).item(), rel=1e-5)


def test_the_squared_temperature_keeps_the_gradients_size() -> None:
    def gradient(temperature: float) -> float:
        logits = STUDENT.clone().requires_grad_()
        kl_at_temperature(logits, TEACHER, temperature).backward()
        assert logits.grad is not None
        return logits.grad.norm().item()

    assert 0.5 < gradient(20.0) / gradient(10.0) < 2.0


def test_labels_count_only_where_known() -> None:
    labels = torch.full((16,), -1)
    without = distillation(STUDENT, TEACHER, labels, temperature=2.0, alpha=1.0)
    assert without.item() == pytest.approx(kl_at_temperature(STUDENT, TEACHER, 2.0).item())
    labels[3] = 1
    assert distillation(STUDENT, TEACHER, labels, temperature=2.0, alpha=1.0) > without


@pytest.mark.parametrize("temperature", [0.0, -1.0])
def test_a_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(ConfigError, match="not above 0"):
        kl_at_temperature(STUDENT, TEACHER, temperature)


def test_metrics_of_a_perfect_and_of_an_unlabeled_set() -> None:
    logits = np.eye(6, dtype=np.float32) * 20
    labels = np.arange(6)
    perfect = describe(logits, labels, logits)
    assert perfect["top1"] == 1
    assert perfect["top5"] == 1
    assert perfect["nll"] == pytest.approx(0, abs=1e-5)
    assert perfect["ece"] == pytest.approx(0, abs=1e-5)
    assert describe(logits, np.full(6, -1), logits)["top1"] is None
    assert agreement(logits, np.roll(logits, 1, axis=1)) == 0
    assert net_lost(logits, np.roll(logits, 1, axis=1), labels) == 6


def test_gap_closed_is_null_where_there_is_no_gap() -> None:
    assert gap_closed(teacher=0.9, vanilla=0.8, student=0.85) == pytest.approx(0.5)
    assert gap_closed(teacher=0.8, vanilla=0.8, student=0.9) is None
    assert gap_closed(teacher=None, vanilla=0.8, student=0.9) is None
