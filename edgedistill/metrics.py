"""Measures of a classifier from its logits; numpy only."""

from collections.abc import Callable
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

MODELS = ("teacher", "vanilla", "student_fp32", "student_int8")  # what a run measures, in the order of its tables

Logits = NDArray[np.float32]
Labels = NDArray[np.int64]


def softmax(logits: Logits, temperature: float = 1.0) -> Logits:
    """(N, K) logits -> (N, K) probabilities at a temperature."""
    scaled = logits / temperature
    scaled = scaled - scaled.max(axis=1, keepdims=True)
    powers = np.exp(scaled)
    result: Logits = powers / powers.sum(axis=1, keepdims=True)
    return result


def top_k(logits: Logits, labels: Labels, k: int) -> float:
    """Share of rows whose label is among the k largest logits."""
    best = np.argsort(-logits, axis=1)[:, :k]
    return float((best == labels[:, None]).any(axis=1).mean())


def negative_log_likelihood(logits: Logits, labels: Labels) -> float:
    """Mean of -log p(label), nats."""
    chosen = softmax(logits)[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(chosen, 1e-12)).mean())


def expected_calibration_error(logits: Logits, labels: Labels, bins: int = 15) -> float:
    """Gap between confidence and accuracy, weighted over equal-width bins.

    Guo, Pleiss, Sun, Weinberger 2017, "On Calibration of Modern Neural Networks", equation 3.
    """
    probabilities = softmax(logits)
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = [
        (which == b).mean() * abs(right[which == b].mean() - confidence[which == b].mean())
        for b in range(bins)
        if (which == b).any()
    ]
    return float(sum(gaps))


def agreement(ours: Logits, theirs: Logits) -> float:
    """Share of rows with the same argmax."""
    return float((ours.argmax(axis=1) == theirs.argmax(axis=1)).mean())


def divergence(logits: Logits, reference: Logits) -> float:
    """KL(softmax(reference) || softmax(logits)), nats, mean over rows."""
    wanted = softmax(reference)
    difference = np.log(np.maximum(wanted, 1e-12)) - np.log(np.maximum(softmax(logits), 1e-12))
    return float((wanted * difference).sum(axis=1).mean())


def describe(logits: Logits, labels: Labels, teacher: Logits) -> dict[str, float | None]:
    """top1, top5, nll, ece and agreement_with_teacher; those that need labels are None where none is known (-1)."""
    known = labels >= 0
    agreed = agreement(logits, teacher)
    if not known.any():
        return {"top1": None, "top5": None, "nll": None, "ece": None, "agreement_with_teacher": agreed}
    some, truth = logits[known], labels[known]
    return {
        "top1": top_k(some, truth, 1),
        "top5": top_k(some, truth, 5),
        "nll": negative_log_likelihood(some, truth),
        "ece": expected_calibration_error(some, truth),
        "agreement_with_teacher": agreed,
    }


def gap_closed(*, teacher: float | None, vanilla: float | None, student: float | None) -> float | None:
    """(student - vanilla) / (teacher - vanilla); None where the teacher is no better than the vanilla student."""
    if teacher is None or vanilla is None or student is None or teacher <= vanilla:
        return None
    return (student - vanilla) / (teacher - vanilla)


def net_lost(before: Logits, after: Logits, labels: Labels) -> int:
    """Images that `before` had right and `after` has wrong, minus the reverse."""
    right_before = before.argmax(axis=1) == labels
    right_after = after.argmax(axis=1) == labels
    return int(right_before.sum()) - int(right_after.sum())


def gate(name: str, value: float, limit: float, passed: bool) -> dict[str, Any]:
    """One line of the gates' table."""
    return {"name": name, "value": value, "limit": limit, "passed": bool(passed)}


def median_ms(call: Callable[[], object], *, repeats: int = 50, warmup: int = 5) -> float:
    """Median wall time of a call, milliseconds."""
    for _ in range(warmup):
        call()
    times = []
    for _ in range(repeats):
        began = perf_counter()
        call()
        times.append(perf_counter() - began)
    return float(np.median(times) * 1000)
