"""A loaded release that answers. Each request holds a reference, so a swap drops nothing."""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.node.fit import check_fits, check_is_ir
from edge.node.state import Release
from edgedistill.bundle import Manifest, read_bundle, read_labels
from edgedistill.errors import RefusedRelease
from edgedistill.images import center_view, decode
from edgedistill.inference import Student


@dataclass(frozen=True)
class Engine:
    """One release in memory."""

    release: Release
    manifest: Manifest
    labels: tuple[str, ...]
    student: Student
    lock: threading.Lock  # the student has one infer request

    @staticmethod
    def load(folder: Path) -> "Engine":
        """Check a bundle's digests and compile it.

        Raises:
            RefusedRelease: not whole, `cannot_compile`, `wrong_labels` or `wrong_shape`.
        """
        manifest = read_bundle(folder)
        check_is_ir(folder / "model.xml")
        try:
            student = Student.read(folder / "model.xml")
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1]
            raise RefusedRelease("cannot_compile", f"the model does not compile: {reason}") from error
        labels = read_labels(folder)
        check_fits(student, manifest, labels)
        release = Release(manifest.name, manifest.version, manifest.digest)
        return Engine(release, manifest, labels, student, threading.Lock())

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """(B, S, S, 3) uint8 -> (B, K) float32."""
        with self.lock:
            return self.student.logits(images)

    def check_golden(self, folder: Path) -> None:
        """Answer the golden images as the bundle says.

        Raises:
            RefusedRelease: `wrong_answer`.
        """
        for golden in self.manifest.golden:
            picture = decode((folder / golden.file).read_bytes())
            answer = self.logits(center_view(picture, self.manifest.size)[None])
            expected = np.asarray(golden.logits, np.float32)
            if answer.shape != (1, len(expected)):
                raise RefusedRelease("wrong_answer", f"{golden.file}: {answer.shape[1:]} logits, not {len(expected)}")
            worst = float(np.abs(answer[0] - expected).max())
            # `not <=`: NaN must fail.
            if not worst <= self.manifest.golden_tolerance or answer[0].argmax() != expected.argmax():
                raise RefusedRelease(
                    "wrong_answer", f"{golden.file}: a logit is off by {worst:.3g}, the release is bad"
                )
