"""The child: it refreshes, downloads, verifies and tries a release, so that none of this can harm who serves.

    python -m edge.node.candidate MEMORY_BYTES

Questions come on stdin, one JSON object a line; each gets one line on stdout: {"done": {...}}, {"refused": slug,
"message": ...}, {"unreachable": slug, "message": ...}, {"errno": n, "message": ...} or {"failed": ...}. It ends with
stdin: when the node is gone, so is it.
"""

import contextlib
import io
import json
import os
import queue
import resource
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge.node.catalog import Unreachable
from edge.node.state import Release
from edgedistill.errors import EdgeDistillError, RefusedRelease

if TYPE_CHECKING:
    from edge.node.engine import Engine
    from edge.node.trust import Repository

BIG = (4000, 3000)  # a 12 MP picture, as a phone takes it
SLOWER = 5.0  # times the active release's time a picture that a candidate may take
SLOW_FLOOR_S = 0.005  # below this nobody minds, whatever the ratio
ROUNDS, ROUNDS_S = 15, 4.0  # of the comparison
NICE = 5  # a third of the share of who serves, not a tenth: under full load a trial still ends
CPU_S = 600


class Candidate:
    """Answers the node's questions. TUF and OpenVINO are loaded when a question needs them."""

    def __init__(self) -> None:
        self._repository: Repository | None = None

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        """What the node asked, as the line that goes back."""
        does: dict[str, Callable[..., dict[str, Any]]] = {
            "refresh": self.refresh,
            "fetch": self.fetch,
            "try": self.try_release,
            "verify": self.verify,
        }
        # A signal that nothing handles ends the process even inside a library that does not return.
        signal.setitimer(signal.ITIMER_REAL, question.pop("limit_s") + 1.0)
        try:
            return {"done": does[question.pop("do")](**question)}
        except RefusedRelease as error:
            return {"refused": error.reason, "message": str(error)}
        except Unreachable as error:
            return {"unreachable": error.reason, "message": str(error)}
        except EdgeDistillError as error:
            return {"failed": str(error)}
        except MemoryError:
            return {"failed": "the updating child needs more memory than it may use"}
        except OSError as error:  # the disk
            return {"errno": error.errno, "message": error.strerror or str(error)}
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    def refresh(
        self,
        *,
        origin: str,
        root: str,
        name: str,
        scratch: str,
        trusted: str | None,
        highest: dict[str, Any],
        ca: str | None,
    ) -> dict[str, Any]:
        """The catalog."""
        from edge.node.trust import Repository

        give_way()
        known = Path(trusted) if trusted else None
        self._repository = Repository(
            origin, bytes.fromhex(root), Path(scratch), trusted=known, ca=Path(ca) if ca else None
        )
        return asdict(self._repository.refresh(name, highest))

    def fetch(self, *, release: dict[str, Any], folder: str) -> dict[str, Any]:
        """Download what is not there yet."""
        assert self._repository is not None, "refresh comes first"
        self._repository.fetch(Release(**release), Path(folder))
        return {}

    def verify(self, *, metadata: str, root: str, manifest: str, release: dict[str, Any]) -> dict[str, Any]:
        """Signatures of stored metadata over a release on disk."""
        from edge.node.trust import verify_offline

        verify_offline(Path(metadata), bytes.fromhex(root), Path(manifest).read_bytes(), Release(**release))
        return {}

    def try_release(self, *, folder: str, active: str | None) -> dict[str, Any]:
        """Compile, answer, and be quick enough."""
        from edge.node.engine import Engine

        try:
            engine = Engine.load(Path(folder))
            engine.check_golden(Path(folder))
            _check_big_picture(engine)
            return _compare(engine, Path(active) if active else None)
        except MemoryError:
            raise RefusedRelease("crashed", "the release needs more memory than its trial may use") from None
        except RuntimeError as error:
            said = str(error).strip().splitlines()
            raise RefusedRelease("crashed", f"the release ends its trial: {said[-1] if said else error!r}") from error


def _check_big_picture(engine: "Engine") -> None:
    import numpy as np
    from PIL import Image

    from edgedistill.images import center_view, decode

    ramp = np.linspace(0, 255, BIG[0], dtype=np.uint8)
    picture = np.broadcast_to(ramp[None, :, None], (BIG[1], BIG[0], 3))
    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, "JPEG")
    logits = engine.logits(center_view(decode(buffer.getvalue()), engine.manifest.size)[None])
    if not np.isfinite(logits).all():
        raise RefusedRelease("wrong_answer", "the answer to a 12 MP picture is not finite")


def _compare(engine: "Engine", active: Path | None) -> dict[str, Any]:
    """Median time a picture, in turns with the active release: the same process, load and moment."""
    import numpy as np

    from edge.node.engine import Engine

    engines = [engine]
    if active is not None:
        with contextlib.suppress(RefusedRelease, OSError, RuntimeError):  # nothing to compare with
            engines.append(Engine.load(active))
    images = [np.zeros((1, e.manifest.size, e.manifest.size, 3), np.uint8) for e in engines]
    times: list[list[float]] = [[] for _ in engines]
    end = time.monotonic() + ROUNDS_S
    while len(times[-1]) < ROUNDS and (time.monotonic() < end or not times[-1]):
        for one, image, spent in zip(engines, images, times, strict=True):
            begun = time.perf_counter()
            one.logits(image)
            spent.append(time.perf_counter() - begun)
    medians = [statistics.median(spent) for spent in times]
    if medians[0] > max(SLOWER * medians[-1], SLOW_FLOOR_S) and len(medians) > 1:
        took, before = (round(1000 * median, 1) for median in medians)
        raise RefusedRelease("too_slow", f"a picture takes {took} ms, with the active release {before} ms")
    return {"ms": [round(1000 * median, 3) for median in medians]}


def limit(memory_bytes: int) -> None:
    """Bound what this process can take from the one that serves."""
    for kind, most in (
        (resource.RLIMIT_DATA, memory_bytes),
        (resource.RLIMIT_CPU, CPU_S),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(kind, (most, most))
    with contextlib.suppress(OSError):  # Linux: when memory is short, this process goes first
        Path("/proc/self/oom_score_adj").write_text("1000")


def give_way() -> None:
    """Leave the machine to who serves: an update has time. The check at boot has none."""
    os.nice(NICE)
    if hasattr(os, "sched_setaffinity"):  # Linux: half of the cores
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[len(cores) // 2 :])


def main() -> None:
    """Answer until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that prints does not answer for us
    limit(int(sys.argv[1]))
    questions: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=[questions], daemon=True).start()
    candidate = Candidate()
    while True:
        answers.write(json.dumps(candidate.answer(questions.get())) + "\n")
        answers.flush()


def _listen(questions: "queue.SimpleQueue[dict[str, Any]]") -> None:
    for line in sys.stdin.buffer:
        questions.put(json.loads(line))
    os._exit(0)  # the node ended, or wants no more of this


if __name__ == "__main__":
    main()
