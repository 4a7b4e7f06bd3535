"""One embedded run of the tiny preset, shared by the tests of this folder; each that changes it works on a copy."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

COMMAND = str(Path(sys.executable).with_name("edgedistill"))


@dataclass(frozen=True)
class Home:
    """A folder of embedded runs, and the command on it."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        return [COMMAND, *arguments, "--home", str(self.folder)]

    def call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """`edgedistill ...`; its failure is the caller's to judge."""
        return subprocess.run(self.command(*arguments), capture_output=True, text=True, check=False)

    def run(self, *options: str) -> dict[str, Any]:
        """Run the pipeline and give its record."""
        done = self.call("run", "--preset", "tiny", *options)
        assert done.returncode == 0, done.stderr
        return self.record()

    def record(self) -> dict[str, Any]:
        """The newest record, as the command prints it."""
        found: dict[str, Any] = json.loads(self.call("runs", "show", "latest", "--json").stdout)
        return found

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def releases(self) -> dict[str, Any]:
        """The signed index."""
        found: dict[str, Any] = json.loads(self.call("release", "list", "--json").stdout)
        return found


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Home:
    """A home with one finished run; pytest's workers share it."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    home = Home(shared / "finished")
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not home.folder.exists():
            unfinished = Home(shared / "unfinished")
            unfinished.run()
            unfinished.folder.rename(home.folder)
    return home


@pytest.fixture
def copied(finished: Home, tmp_path: Path) -> Home:
    """A copy of it, to change."""
    shutil.copytree(finished.folder, tmp_path / "home", copy_function=_link)
    return Home(tmp_path / "home")


def _link(source: str, target: str) -> str:
    """Objects are never overwritten, so a hard link is a copy; what moves or grows is copied."""
    movable = ("timestamp.json", "pointer.json", "quarantine.json")
    if source.endswith((*movable, ".log", ".jsonl", ".sqlite", ".db")):
        return str(shutil.copy2(source, target))
    os.link(source, target)
    return target


def cached(record: dict[str, Any]) -> dict[str, bool]:
    """Step -> there was nothing to do."""
    return {step["name"]: step["cached"] for step in record["steps"]}
