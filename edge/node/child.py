"""The short-lived process that does what is risky in an update, seen from the node: questions and answers.

The child (edge/node/candidate.py) refreshes, downloads, verifies, compiles and tries. It has limits of its own for
memory, CPU and time, a low priority, and is the first that the kernel ends when memory is short. The serving process
loads none of the code that does this, and survives whatever happens to it.
"""

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from edge.node.catalog import Catalog, Unreachable
from edge.node.disk import DiskTrouble
from edge.node.state import Release
from edgedistill.errors import NodeError, RefusedRelease

VERIFY_S = 30.0
REFRESH_S = 120.0  # metadata over a line of 1 kB/s
FETCH_S = 3600.0  # then another child goes on where this one was
TRIAL_S = 45.0
MEMORY_BYTES = 1 << 30
MODULE = "edge.node.candidate"
_TICK_S = 0.25  # how often a waiting node looks whether the answer is still wanted
_LONGEST_ANSWER = 8 << 20


class Interrupted(NodeError):  # noqa: N818 - what happened to the child
    """The child ended or was ended before the trial; that says nothing about the release, and it is tried again."""

    reason = "interrupted"


class Child:
    """One child, for one update. A context manager: at its end the child is gone.

    Args:
        is_wanted: asked while waiting; False ends the wait with `Interrupted`.
        memory_bytes: the most that the child may allocate.
    """

    def __init__(self, is_wanted: Callable[[], bool] = lambda: True, *, memory_bytes: int = MEMORY_BYTES) -> None:
        self._is_wanted = is_wanted
        # No preexec_fn: Python between fork and exec, beside gRPC's threads, ended a child with SIGSEGV now and then.
        # A session of its own: an operator's Ctrl-C reaches the node, which ends the child.
        self._process = subprocess.Popen(
            [sys.executable, "-m", MODULE, str(memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        self._heard = b""
        self._waited_s = 0.0  # for a core, when its time was over

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child; nothing that it holds is worth keeping."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def refresh(
        self,
        origin: str,
        root: bytes,
        *,
        name: str,
        scratch: Path,
        trusted: Path | None,
        highest: Mapping[str, Any],
        ca: Path | None,
    ) -> Catalog:
        """Fetch and verify the metadata. Raises Unreachable, RefusedRelease, Interrupted, DiskTrouble."""
        answer = self._ask(
            REFRESH_S,
            do="refresh",
            origin=origin,
            root=root.hex(),
            name=name,
            scratch=str(scratch),
            trusted=str(trusted) if trusted else None,
            highest=dict(highest),
            ca=str(ca) if ca else None,
        )
        releases = {int(version): digest for version, digest in answer["releases"].items()}
        return Catalog(**(answer | {"releases": releases}))

    def fetch(self, release: Release, folder: Path) -> None:
        """Download what is not in `folder` yet. Raises Unreachable, RefusedRelease, Interrupted, DiskTrouble."""
        self._ask(FETCH_S, do="fetch", release=asdict(release), folder=str(folder))

    def try_release(self, folder: Path, active: Path | None) -> None:
        """Compile it, check its golden answers and its speed against the active release's.

        Raises:
            RefusedRelease: what was found; `crashed` or `too_slow` when the child did not come back.
        """
        started = time.monotonic()
        try:
            self._ask(TRIAL_S, do="try", folder=str(folder), active=str(active) if active else None)
        except Interrupted as error:
            if not self._is_wanted():
                raise
            is_late = time.monotonic() - started >= TRIAL_S
            if is_late and self._waited_s > TRIAL_S / 2:
                raise Interrupted("this machine is too busy to try the release") from error
            if is_late or self._process.returncode in (-signal.SIGXCPU, -signal.SIGALRM):
                raise RefusedRelease("too_slow", f"the release did not end its trial in {TRIAL_S:.0f} s") from error
            raise RefusedRelease("crashed", f"the release ended its trial: {error}") from error

    def verify(self, metadata: Path, root: bytes, *, manifest: Path, release: Release) -> None:
        """Whether stored metadata vouches for a release on disk; no network. Raises RefusedRelease, Interrupted."""
        self._ask(
            VERIFY_S,
            do="verify",
            metadata=str(metadata),
            root=root.hex(),
            manifest=str(manifest),
            release=asdict(release),
        )

    def _ask(self, limit_s: float, **question: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question | {"limit_s": limit_s}).encode() + b"\n")
            self._process.stdin.flush()
        except OSError:
            raise self._ended() from None
        answer = json.loads(self._line(time.monotonic() + limit_s))
        if "refused" in answer:
            raise RefusedRelease(answer["refused"], answer["message"])
        if "unreachable" in answer:
            raise Unreachable(answer["message"], answer["unreachable"])
        if "errno" in answer:
            raise DiskTrouble.of(OSError(answer["errno"], answer["message"]), "nothing can be fetched")
        if "failed" in answer:
            raise Interrupted(answer["failed"])
        done: dict[str, Any] = answer["done"]
        return done

    def _line(self, deadline: float) -> bytes:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        while b"\n" not in self._heard:
            if time.monotonic() > deadline:
                self._waited_s = _waited_s(self._process.pid)
                self._process.kill()
                raise Interrupted("the updating child did not answer in time")
            if not self._is_wanted():
                raise Interrupted("the update is not wanted any more")
            if not select.select([descriptor], [], [], _TICK_S)[0]:
                continue
            block = os.read(descriptor, 1 << 16)
            if not block or len(self._heard) > _LONGEST_ANSWER:
                raise self._ended()
            self._heard += block
        line, _, self._heard = self._heard.partition(b"\n")
        return line

    def _ended(self) -> Interrupted:
        self._process.kill()
        status = self._process.wait()
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return Interrupted(f"the updating child ended by {how}")


def _waited_s(pid: int) -> float:
    """How long the busiest thread of a process stood in line for a core since its start; 0 where nobody counts it."""
    waits = [0.0]
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            waits.append(int(path.read_text().split()[1]) / 1e9)
    return max(waits)
