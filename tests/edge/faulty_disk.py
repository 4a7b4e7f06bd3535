"""A small disk that tests fill, make read-only and spoil, below one real node."""

import contextlib
import errno
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.edge.conftest import NodeProcess
from tests.edge.whole import Signed, ask

PAGE = 4096  # bytes that a small file takes on a tmpfs


@dataclass
class Tmpfs:
    """A mounted tmpfs."""

    root: Path

    def fill(self, *, free_pages: int) -> None:
        """Leave so much."""
        self.free()
        left = os.statvfs(self.root).f_bavail - free_pages
        with self._ballast.open("wb") as handle:
            os.posix_fallocate(handle.fileno(), 0, left * PAGE)

    def free(self) -> None:
        """Give the space back."""
        self._ballast.unlink(missing_ok=True)

    def remount(self, how: str) -> None:
        """`ro` or `rw`."""
        subprocess.run(["mount", "-o", f"remount,{how}", str(self.root)], check=True, timeout=10)

    def used(self) -> int:
        """Bytes without the ballast."""
        return sum(path.lstat().st_blocks * 512 for path in self.root.rglob("*") if path != self._ballast)

    @property
    def _ballast(self) -> Path:
        return self.root / "ballast"


@contextlib.contextmanager
def tmpfs(folder: Path, *, size_bytes: int) -> Iterator[Tmpfs]:
    """Mount one; it is gone at the end. Raises CalledProcessError without the right to mount."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=10)
    try:
        yield Tmpfs(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=10)


def can_mount() -> bool:
    """Whether this is root, with the right to mount."""
    if os.geteuid() != 0 or not shutil.which("mount"):
        return False
    probe = subprocess.run(["unshare", "--mount", "true"], capture_output=True, timeout=10, check=False)
    return probe.returncode == 0


@contextlib.contextmanager
def failing(pid: int, call: str, log: Path, *, when: str = "1+", path: Path | None = None) -> Iterator[None]:
    """Let a system call of a process and its children fail with EIO; `when` is strace's, and counts in each thread."""
    only = ["-P", str(path)] if path else []
    command = ["strace", "-f", "-qq", "-o", str(log), *only, "-e", f"trace={call}"]
    command += ["-e", f"inject={call}:error=EIO:when={when}", "-p", str(pid)]
    tracer = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        for _ in range(200):
            if f"TracerPid:\t{tracer.pid}\n" in Path(f"/proc/{pid}/status").read_text():
                break
            time.sleep(0.05)
        else:
            raise AssertionError("strace did not attach")
        yield
    finally:
        tracer.terminate()
        tracer.wait(20)


LOOKS = ("listdir", "scandir", "stat")  # the calls of os by which a folder is looked at


@contextlib.contextmanager
def unreadable(folder: Path, *calls: str) -> Iterator[None]:
    """In this process, let these calls of os fail with EIO on everything in a folder; without a right to mount."""

    def failing_call(call: str) -> Callable[..., Any]:
        real: Callable[..., Any] = getattr(os, call)

        def called(path: Any = ".", *rest: Any, **named: Any) -> Any:
            if not isinstance(path, int) and Path(os.fsdecode(path)).is_relative_to(folder):
                raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
            return real(path, *rest, **named)

        return called

    with pytest.MonkeyPatch.context() as patch:
        for call in calls:
            patch.setattr(os, call, failing_call(call))
        yield


@dataclass
class OnFaultyDisk:
    """A node that is told to go from release to release while its disk is spoiled."""

    node: NodeProcess
    state: Path
    wanted: Path
    signed: Signed

    def active(self) -> int:
        return int(json.loads((self.state / "pointer.json").read_bytes())["active"]["version"])

    def next(self) -> int:
        """The version that comes after the active one, in a circle."""
        return self.active() % len(self.signed.digests) + 1

    def update(self) -> tuple[int, int]:
        """Ask for the next release. Gives the old and the new version."""
        old, new = self.active(), self.next()
        self.wanted.write_text(f"{new}\n")
        return old, new

    def wait_trouble(self, reason: str, old: int) -> dict[str, Any]:
        """The event is there; meanwhile the old release answers, and nothing of the update stays."""
        status = self.node.wait(lambda status: status["last_event"].get("reason") == reason)
        assert status["last_event"]["message"].count("\n") == 0
        self.answers(old)
        return status

    def answers(self, version: int) -> None:
        """The node answers, and as this release does."""
        answered, logits = ask(self.node.http)
        assert answered == version
        assert self.signed.answers_as(version, logits)

    def recovers(self, new: int) -> None:
        """Without help."""
        self.node.wait_version(new)
        self.answers(new)
        assert self.node.process is not None
        assert self.node.process.poll() is None
        assert self.signed.violations(self.state, {new}) == []
        assert not self.node.status()["quarantined"]

    def leftovers(self) -> list[str]:
        """What lies in the folders of unfinished things."""
        return [str(path) for name in ("tmp", "partial") for path in (self.state / name).rglob("*")]
