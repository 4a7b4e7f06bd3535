"""Ask a teacher about a few real pictures before anyone relies on it."""

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import TeacherError
from edgedistill.images import Pixels
from serving.onnx_teacher import Teacher
from serving.teacher_answers import are_probabilities, with_log, without_softmax

BATCH = 4
LARGEST = 6e4  # scores are kept in float16, which ends at 65,504
_SAME = 1e-3  # of the spread of the answers: what a batch may change by rounding

Answers = NDArray[np.float32]


def probe(teacher: Teacher, pictures: Pixels) -> Answers:
    """The teacher's answers to real pictures, once alone and once in a batch of BATCH.

    Args:
        teacher: with its front.
        pictures: (N, S, S, 3) uint8 of N > 0 different images at the teacher's size; the first BATCH are asked about.

    Returns:
        (min(N, BATCH), K) float32.

    Raises:
        TeacherError: no answer, another shape, a value that is not finite or too large to keep, an answer that depends
            on the rest of the batch, or the same answer to different pictures.
    """
    from edgedistill.inference import Student

    asked = pictures[:BATCH]
    full = asked[np.arange(BATCH) % len(asked)]
    try:
        model = Student.from_bytes(teacher.model)
        alone = model.logits(full[:1])
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise TeacherError(f"the teacher loads but gives no answer to a real image: {reason}") from error
    try:
        answers = model.logits(full)
    except RuntimeError as error:
        raise TeacherError(_fixed_batch(f"gives none to {BATCH} at once")) from error
    if alone.shape != (1, teacher.classes):
        raise TeacherError(f"the teacher answered {alone.shape} to one image; expected (1, {teacher.classes})")
    if answers.shape != (BATCH, teacher.classes):
        raise TeacherError(_fixed_batch(f"{answers.shape} to {BATCH} at once"))
    _finite(alone, answers)
    spread = max(float(np.ptp(answers)), 1e-6)
    if np.abs(alone[0] - answers[0]).max() > _SAME * spread:
        raise TeacherError(_fixed_batch("another answer to the same image among others"))
    different = len(np.unique(asked.reshape(len(asked), -1), axis=0)) > 1
    if different and np.abs(answers - answers[:1]).max() <= 1e-6 * max(1.0, float(np.abs(answers).max())):
        raise TeacherError(
            f"the teacher gives the same answer to {len(asked)} different images; check its mean, std and weights"
        )
    return answers[: len(asked)]


def to_logits(teacher: Teacher, answers: Answers) -> tuple[Teacher, list[str]]:
    """A teacher that ends in softmax gives its logits again; others stay as they are.

    Args:
        teacher: with its front.
        answers: what it answered to real pictures.

    Returns:
        The teacher, and sentences about what was changed.
    """
    if not are_probabilities(answers):
        return teacher, []
    if bare := without_softmax(teacher):
        return bare, ["the teacher ended in a softmax; it was taken off, and its logits are used"]
    return with_log(teacher), ["the teacher answers probabilities; their logarithm is used as logits"]


def _finite(*answers: Answers) -> None:
    for answer in answers:
        if not np.isfinite(answer).all():
            raise TeacherError(f"the teacher answered {_shown(answer[0])} to a real image; expected finite logits")
        if np.abs(answer).max() > LARGEST:
            raise TeacherError(
                f"the teacher answered {_shown(answer[0])} to a real image; logits beyond {LARGEST:g} cannot be kept, "
                "check its mean and std"
            )


def _shown(answer: Answers) -> str:
    head = ", ".join(f"{value:.4g}" for value in answer[:5])
    return f"[{head}{', ...' if len(answer) > 5 else ''}]"


def _fixed_batch(what: str) -> str:
    return (
        f"the teacher answers one image and {what}; export it with a dynamic batch: "
        'torch.onnx.export(net, (torch.zeros(2, 3, S, S),), "teacher.onnx", '
        'dynamic_shapes=({0: torch.export.Dim("batch")},))'
    )
