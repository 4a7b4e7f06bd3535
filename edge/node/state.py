"""The node's state folder: one pointer says everything, and it moves in one rename.

pointer.json             active and previous release, their metadata folder, the highest versions seen
releases/<digest>/       a verified bundle
metadata/<number>/       the TUF metadata that vouches for them
quarantine.json          digests that were tried and refused
tmp/                     whatever was not finished; emptied at start
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edge.node.catalog import Seen
from edgedistill.errors import NodeError
from edgedistill.storage import pretty_json

KEPT_REFUSALS = 50


@dataclass(frozen=True)
class Release:
    """A release that this node holds."""

    name: str
    version: int
    digest: str  # SHA-256 of its manifest; also the name of its folder


@dataclass(frozen=True)
class Pointer:
    """What the node serves, and what it has seen. Replaced whole."""

    active: Release | None = None
    previous: Release | None = None
    metadata: str | None = None  # folder below metadata/
    highest: Mapping[str, Seen] = field(default_factory=dict)  # TUF role -> highest version seen, with its keys
    unfinished_starts: int = 0  # starts since the activation that did not reach the end of the probation
    probation: bool = False  # the active release has not yet proven itself


@dataclass(frozen=True)
class Refusal:
    """A release that this node will not run."""

    version: int
    digest: str
    reason: str
    message: str


class State:
    """The state folder of one node."""

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            for name in ("releases", "metadata", "tmp"):
                (root / name).mkdir(parents=True, exist_ok=True)
            for leftover in (root / "tmp").iterdir():
                _remove(leftover)
        except OSError as error:
            raise NodeError(
                f"state folder {root} cannot be used: {error.strerror}; give another with --state"
            ) from error

    def pointer(self) -> Pointer:
        """The current pointer; an empty one before the first activation.

        Raises:
            NodeError: the file holds no pointer. It is written in one rename, so somebody else wrote it.
        """
        path = self.root / "pointer.json"
        if not path.exists():
            return Pointer()
        try:
            document = json.loads(path.read_bytes())
            active, previous = (Release(**document[k]) if document[k] else None for k in ("active", "previous"))
            return replace(Pointer(**document), active=active, previous=previous)
        except (ValueError, TypeError, KeyError) as error:
            raise NodeError(f"{path} is damaged ({error}); remove the state folder to start anew") from error

    def flip(self, pointer: Pointer) -> None:
        """Make the pointer current: atomic, and on disk when this returns."""
        self._write("pointer.json", asdict(pointer))

    def folder(self, release: Release) -> Path:
        """Where the release's bundle lies."""
        return self.root / "releases" / release.digest

    def metadata(self, pointer: Pointer) -> Path | None:
        """Where the pointer's TUF metadata lies."""
        return self.root / "metadata" / pointer.metadata if pointer.metadata else None

    def scratch(self, name: str) -> Path:
        """An empty folder below tmp/."""
        path = self.root / "tmp" / name
        _remove(path)
        path.mkdir()
        return path

    def keep(self, source: Path, target: Path) -> None:
        """Move a finished folder into place: its files are on disk before its name is."""
        for path in sorted(source.rglob("*"), reverse=True):
            sync(path)
        sync(source)
        _remove(target)
        source.replace(target)
        sync(target.parent)

    def sweep(self, pointer: Pointer) -> None:
        """Remove releases and metadata that the pointer does not name."""
        wanted = {release.digest for release in (pointer.active, pointer.previous) if release}
        for path in (self.root / "releases").iterdir():
            if path.name not in wanted:
                _remove(path)
        for path in (self.root / "metadata").iterdir():
            if path.name != pointer.metadata:
                _remove(path)

    def refusals(self) -> tuple[Refusal, ...]:
        """Releases in quarantine, oldest first."""
        path = self.root / "quarantine.json"
        return tuple(Refusal(**entry) for entry in json.loads(path.read_bytes())) if path.exists() else ()

    def quarantine(self, refusal: Refusal) -> None:
        """Remember that a release was refused; it is not tried again."""
        others = [r for r in self.refusals() if (r.version, r.digest) != (refusal.version, refusal.digest)]
        self._write("quarantine.json", [asdict(r) for r in (*others, refusal)][-KEPT_REFUSALS:])

    def _write(self, name: str, value: Any) -> None:
        temporary = self.root / "tmp" / name
        temporary.write_bytes(pretty_json(value))
        sync(temporary)
        temporary.replace(self.root / name)
        sync(self.root)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    if path.is_symlink():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
