"""Try a candidate release in a short-lived child, so that one that crashes, hangs or eats memory harms nobody.

    python -m edge.node.trial FOLDER

prints one JSON line: {"refused": null} or {"refused": reason, "message": sentence}.
"""

import io
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from edge.node.engine import Engine
from edgedistill.errors import RefusedRelease
from edgedistill.images import center_view, decode

LIMIT_S = 60
LIMIT_BYTES = 2 << 30
BIG = (4000, 3000)  # a 12 MP picture, as a phone takes it


def try_release(folder: Path) -> None:
    """Compile and answer in a child under limits.

    Raises:
        RefusedRelease: what the child found; `crashed` or `too_slow` when it did not come back.
    """
    command = [sys.executable, "-m", "edge.node.trial", str(folder)]
    try:
        # No preexec_fn: Python between fork and exec, beside gRPC's threads, ended a child with SIGSEGV now and then.
        child = subprocess.run(command, capture_output=True, timeout=LIMIT_S, check=False, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired:
        raise RefusedRelease("too_slow", f"the release did not answer its golden images in {LIMIT_S} s") from None
    lines = child.stdout.decode(errors="replace").strip().splitlines()
    if child.returncode != 0 or not lines:
        raise RefusedRelease("crashed", f"the release ended its trial with exit status {child.returncode}")
    verdict = json.loads(lines[-1])
    if verdict["refused"]:
        raise RefusedRelease(verdict["refused"], verdict["message"])


def main() -> None:
    """The child."""
    _limit()
    folder = Path(sys.argv[1])
    verdict: dict[str, str | None] = {"refused": None, "message": ""}
    try:
        engine = Engine.load(folder)
        engine.check_golden(folder)
        if not np.isfinite(engine.logits(center_view(decode(_big_picture()), engine.manifest.size)[None])).all():
            raise RefusedRelease("wrong_answer", "the answer to a 12 MP picture is not finite")
    except RefusedRelease as error:
        verdict = {"refused": error.reason, "message": str(error)}
    sys.stdout.write(json.dumps(verdict) + "\n")


def _big_picture() -> bytes:
    ramp = np.linspace(0, 255, BIG[0], dtype=np.uint8)
    picture = np.broadcast_to(ramp[None, :, None], (BIG[1], BIG[0], 3))
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG")
    return buffer.getvalue()


def _limit() -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (2 * LIMIT_S, 2 * LIMIT_S))


if __name__ == "__main__":
    main()
