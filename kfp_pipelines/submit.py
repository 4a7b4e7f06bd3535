"""Run a pipeline under kfp's local runner, in a process of its own.

    python -m kfp_pipelines.submit REQUEST.json

kfp's runner prints a lot and starts `python3` from PATH; here both are contained: its output goes to a log, and the
parent draws the progress that the steps report (see edgedistill.progress).
"""

import contextlib
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgedistill.errors import EdgeDistillError
from edgedistill.progress import FILE_VARIABLE
from edgedistill.steps import SUBMITTER_VARIABLE

Event = Mapping[str, Any]
PIPELINES = ("distillation", "teacher")


@dataclass(frozen=True)
class Workplace:
    """Where one embedded run keeps what is its own."""

    folder: Path

    @property
    def log(self) -> Path:
        return self.folder / "pipeline.log"

    @property
    def events(self) -> Path:
        return self.folder / "progress.jsonl"

    @property
    def outputs(self) -> Path:
        return self.folder / "outputs"

    @property
    def scratch(self) -> Path:
        """TMPDIR of everything that the run starts."""
        return self.folder / "tmp"

    @contextlib.contextmanager
    def occupied(self) -> Iterator[None]:
        """Make the scratch folder for the block; what killed runs beside this one left in theirs is removed first.

        A lock that the kernel drops with its process says whether a run is alive: no pid file that a reboot makes
        name somebody else.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for other in self.folder.parent.glob("*/tmp"):
                _remove_if_dead(other)
            self.scratch.mkdir(exist_ok=True)
            try:
                yield
            finally:
                shutil.rmtree(self.scratch, ignore_errors=True)


def _remove_if_dead(scratch: Path) -> None:
    with contextlib.suppress(OSError), (scratch.parent / ".lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # a live run's own, this one's too, raises
        shutil.rmtree(scratch, ignore_errors=True)


def run_local(
    pipeline: str, arguments: Mapping[str, Any], place: Workplace, *, on_event: Callable[[Event], None]
) -> None:
    """Run one of PIPELINES to its end.

    Args:
        pipeline: name of the module below kfp_pipelines, and of the function in it.
        arguments: of the pipeline.
        place: of the run; `occupied()` holds its scratch folder.
        on_event: called with each line of progress, from another thread.

    Raises:
        EdgeDistillError: a step failed; the message is the step's.
    """
    place.folder.mkdir(parents=True, exist_ok=True)
    place.events.touch()
    request = place.folder / f"{pipeline}.json"
    request.write_text(json.dumps({"pipeline": pipeline, "arguments": arguments, "outputs": str(place.outputs)}))
    environment = os.environ | {
        FILE_VARIABLE: str(place.events),
        SUBMITTER_VARIABLE: str(os.getpid()),
        "TMPDIR": str(place.scratch),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
        # Spinning threads cost 6 % less on an idle machine, and ten to forty times more on one with other work.
        "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "PASSIVE"),
    }
    failures: list[str] = []

    def seen(event: Event) -> None:
        if event["event"] == "failed":
            failures.append(str(event["message"]))
        on_event(event)

    with place.log.open("ab") as log, _following(place.events, seen):
        child = subprocess.Popen(
            [sys.executable, "-m", "kfp_pipelines.submit", str(request)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )
        try:
            status = child.wait()
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGTERM)
    if failures:
        raise EdgeDistillError(failures[0])
    if status:
        raise EdgeDistillError(f"the pipeline ended with status {status}; the reason is in {place.log}")


@contextlib.contextmanager
def _following(path: Path, on_event: Callable[[Event], None]) -> Iterator[None]:
    """Call `on_event` with each line that is appended, until the block ends and all lines were seen."""
    done = threading.Event()

    def follow() -> None:
        with path.open() as handle:
            handle.seek(0, os.SEEK_END)
            while True:
                finished = done.is_set()  # before the read: nothing written before the end is missed
                for line in handle.readlines():
                    on_event(json.loads(line))
                if finished:
                    return
                time.sleep(0.05)

    thread = threading.Thread(target=follow)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def main() -> None:
    """The child: kfp and its output stay in here."""
    from kfp import local

    from kfp_pipelines.distillation import distillation
    from kfp_pipelines.teacher import teacher

    request = json.loads(Path(sys.argv[1]).read_text())
    local.init(local.SubprocessRunner(use_venv=False), pipeline_root=request["outputs"])
    {"distillation": distillation, "teacher": teacher}[request["pipeline"]](**request["arguments"])


if __name__ == "__main__":
    main()
