"""Whether the parts of a signed bundle are what a node can serve, and fit each other. A signature says who made it, not
that it makes sense."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgedistill.bundle import Manifest
from edgedistill.errors import RefusedRelease
from edgedistill.inference import Student

_HEAD_BYTES = 4096


def check_is_ir(model: Path) -> None:
    """The model must be OpenVINO's IR: the runtime goes by what a file holds, not by its name, and other formats (ONNX)
    name further files that it then reads.

    Raises:
        RefusedRelease: `cannot_compile`.
    """
    with model.open("rb") as handle:
        head = handle.read(_HEAD_BYTES)
    prolog, root, _ = head.partition(b"<net ")
    if not root or b"<!" in prolog or not prolog.lstrip().startswith(b"<?xml"):
        raise RefusedRelease("cannot_compile", "model.xml is no OpenVINO IR; publish a release that holds one")


def check_fits(student: Student, manifest: Manifest, labels: Sequence[str]) -> None:
    """The compiled model takes what the manifest says and gives a logit a label.

    Raises:
        RefusedRelease: `wrong_labels` or `wrong_shape`.
    """
    if len(labels) != manifest.classes or not all(labels):
        raise RefusedRelease("wrong_labels", f"the release has {len(labels)} labels for {manifest.classes} classes")
    blank = np.zeros((1, manifest.size, manifest.size, 3), np.uint8)
    try:
        shape = student.logits(blank).shape
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise RefusedRelease("wrong_shape", f"the model does not take uint8 {blank.shape}: {reason}") from error
    if shape != (1, manifest.classes):
        raise RefusedRelease("wrong_shape", f"the model answers with {shape}, expected {(1, manifest.classes)}")
