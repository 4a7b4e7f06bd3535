"""What an int8 student is measured by, on validation: the gates, and how rungs are compared."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edgedistill.config import QuantizeConfig
from edgedistill.conversion import to_bytes
from edgedistill.inference import Student
from edgedistill.metrics import agreement, divergence, gate, median_ms, net_lost

if TYPE_CHECKING:
    import openvino as ov

Logits = NDArray[np.float32]


@dataclass(frozen=True)
class Measured:
    """One rung's int8 student on validation."""

    gates: list[dict[str, Any]]
    agreement: float  # share of images where its first class is fp32's
    teacher_agreement: float  # ... the teacher's
    teacher_kl: float  # KL(teacher || int8), nats, mean

    @property
    def passed(self) -> bool:
        return all(one["passed"] for one in self.gates)

    @property
    def rank(self) -> tuple[bool, float]:
        """The higher, the better: inside the gates first, then nearer to the teacher. The divergence sees what a
        count of images is too coarse for: decision 20."""
        return self.passed, -self.teacher_kl


@dataclass(frozen=True)
class Validation:
    """The validation split, and what is known of it."""

    pictures: NDArray[np.uint8]  # (N, S, S, 3)
    truth: NDArray[np.int64]  # (N,), -1 where no label is known
    teacher: Logits  # (N, K), the stored answers to the centre views
    fp32: Logits  # (N, K)

    def measure(self, model: "ov.Model", settings: QuantizeConfig) -> Measured:
        """Answers of an int8 model, held against the gates."""
        student = Student(model.clone())
        int8 = student.logits(self.pictures)
        same, taught = agreement(int8, self.fp32), agreement(int8, self.teacher)
        gates = [
            *_answers(self, int8, settings, same=same, taught=taught),
            *([_size(model, settings.max_size_kb)] if settings.max_size_kb else []),
            *([_latency(student, self.pictures[:1], settings.max_latency_ms)] if settings.max_latency_ms else []),
        ]
        return Measured(gates, same, taught, divergence(int8, self.teacher))


def _answers(
    validation: Validation, int8: Logits, settings: QuantizeConfig, *, same: float, taught: float
) -> list[dict[str, Any]]:
    """Where no label is known for measuring, the teacher's answer stands for it. Not fp32's own: then an int8 student
    that the last rung brought nearer to the teacher would lose an image with each answer that it mended."""
    fp32, count = validation.fp32, len(int8)
    labels = np.where(validation.truth >= 0, validation.truth, validation.teacher.argmax(axis=1))
    lost = net_lost(fp32, int8, labels)
    may_lose = max(settings.max_lost_count, settings.max_lost_share * count)
    # Of a small split max_teacher_drop is less than one image.
    drop = max(settings.max_teacher_drop, settings.max_lost_count / count)
    floor = agreement(fp32, validation.teacher) - drop
    return [
        gate("int8 net images lost", lost, may_lose, lost <= may_lose),
        gate("int8 agreement with fp32", same, settings.min_agreement, same >= settings.min_agreement),
        gate("int8 agreement with the teacher", taught, round(floor, 6), taught >= floor - 1e-9),
    ]


def _size(model: "ov.Model", limit: float) -> dict[str, Any]:
    size = sum(map(len, to_bytes(model))) / 1000
    return gate("int8 size in kB", size, limit, size <= limit)


def _latency(student: Student, picture: NDArray[np.uint8], limit: float) -> dict[str, Any]:
    took = round(median_ms(lambda: student.logits(picture)), 3)
    return gate("int8 latency in ms", took, limit, took <= limit)
