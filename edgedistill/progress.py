"""Progress of a step that runs in another process: the step appends lines to a file, the submitter draws them.

A step's stdout is a pipe that kfp collects, so a bar drawn there would be noise. `FileProgress` writes one JSON line an
update; `edgedistill.cli` tails the file. Without a file the step is silent.
"""

import json
import time
from pathlib import Path
from typing import Any

FILE_VARIABLE = "EDGEDISTILL_PROGRESS"  # read by the component's entry point only


class Progress:
    """Where a step says how far it is. Cheap to call: at most ten lines a second reach the file."""

    def __init__(self, path: Path | None = None, *, step: str = "") -> None:
        self._path = path
        self._step = step
        self._last = 0.0

    def update(self, done: float, *, total: float, note: str = "") -> None:
        """`done` of `total` units are finished; `note` is shown beside the bar."""
        now = time.monotonic()
        if now - self._last >= 0.1 or done >= total:
            self._last = now
            self._write({"event": "progress", "done": done, "total": total, "note": note})

    def started(self) -> None:
        """The step's own work begins."""
        self._write({"event": "started"})

    def finished(self, *, seconds: float, cached: bool) -> None:
        """The step is complete; `cached` when there was nothing to do."""
        self._write({"event": "finished", "seconds": seconds, "cached": cached})

    def failed(self, message: str) -> None:
        """The step ends with this sentence."""
        self._write({"event": "failed", "message": message})

    def _write(self, line: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a") as handle:
                handle.write(json.dumps({"step": self._step, **line}) + "\n")
