"""The node's state folder: one pointer says everything, and it moves in one rename.

pointer.json             active and previous release, their metadata folder, the highest versions seen
releases/<digest>/       a verified bundle
metadata/<number>/       the TUF metadata that vouches for them, and <number>-copy/
quarantine.json          digests that were tried and refused
partial/<digest>/        a bundle that is being downloaded; kept over a restart
tmp/                     whatever was not finished; emptied at start

Opening it needs no write: a node whose disk is full, read-only or failing serves what it holds. What could not be
written is held in memory and written as soon as the disk takes it.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge.node.catalog import Seen
from edge.node.disk import DiskTrouble, copy_folder, disk, remove
from edgedistill.errors import NodeError
from edgedistill.storage import make_folders, pretty_json, sync

FOLDERS = ("releases", "metadata", "partial", "tmp")
POINTER, QUARANTINE = "pointer.json", "quarantine.json"
COPY = "-copy"  # of a metadata folder
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
    """The state folder of one node, and of no other at the same time.

    `failpoint(name)` is called between the steps of `keep` and of a write; tests end the process there.
    """

    def __init__(self, root: Path, failpoint: Callable[[str], None] = lambda name: None) -> None:
        self.root, self._failpoint = root, failpoint
        self.problem: DiskTrouble | None = None  # what the disk refused last; None: nothing is left to do
        self._pending: dict[str, Any] = {}  # file -> value that is not on disk yet
        with self._tolerated():
            self._make_folders()
        try:
            self._handle = os.open(root, os.O_RDONLY)
        except OSError as error:
            raise NodeError(
                f"state folder {root} cannot be used: {error.strerror}; give another with --state"
            ) from error
        try:
            self._lock()
            self._pointer = self._read_pointer()
            if self.problem and self._pointer.active is None:
                raise NodeError(f"state folder {root} cannot be used, {self.problem}; or give another with --state")
        except NodeError:
            self.close()
            raise
        self._refusals = self._read_refusals()
        self._on_disk = [self._pointer]  # after a write that failed half-way: each pointer that may be there
        self.clear()

    def close(self) -> None:
        """Let another node use the folder; the end of the process does the same."""
        os.close(self._handle)

    def pointer(self) -> Pointer:
        """The current pointer; an empty one before the first activation."""
        return self._pointer

    def flip(self, pointer: Pointer) -> None:
        """Make the pointer current: atomic, and on disk when this returns.

        Raises:
            DiskTrouble: the one before is current, and is written again if this one may be on disk.
        """
        before = self._pointer
        try:
            self._write_pointer(pointer)
        except DiskTrouble:
            if len(self._on_disk) > 1:
                self._pending[POINTER] = before
            raise
        self._pending.pop(POINTER, None)

    def remember(self, pointer: Pointer) -> None:
        """Make the pointer current, and write it now or as soon as the disk takes it."""
        self._pointer = self._pending[POINTER] = pointer
        self._write_pending()

    def settle(self) -> None:
        """Between updates: do what the disk refused earlier. `problem` says what is left to do."""
        before, self.problem = self.problem, None
        self._write_pending()
        if before and not self.problem:
            with self._tolerated():
                self._make_folders()
            self.clear()
            self.sweep(self._pointer)

    def folder(self, release: Release) -> Path:
        """Where the release's bundle lies."""
        return self.root / "releases" / release.digest

    def metadata(self, pointer: Pointer) -> Path | None:
        """Where the pointer's TUF metadata lies."""
        return self.root / "metadata" / pointer.metadata if pointer.metadata else None

    def metadata_copies(self, pointer: Pointer) -> list[Path]:
        """The same, and its copy: a node whose disk spoiled one still knows that its release was signed."""
        first = self.metadata(pointer)
        return [first, first.with_name(f"{first.name}{COPY}")] if first else []

    def keep_metadata(self, source: Path, number: str) -> None:
        """Move verified TUF metadata into place, twice. Raises DiskTrouble."""
        copy = source.with_name(f"{source.name}{COPY}")
        with disk(f"metadata/{number[:12]} cannot be kept"):
            remove(copy)
            copy_folder(source, copy)
        self.keep(copy, self.root / "metadata" / f"{number}{COPY}")
        self.keep(source, self.root / "metadata" / number)

    def scratch(self, name: str) -> Path:
        """An empty folder below tmp/. Raises DiskTrouble."""
        path = self.root / "tmp" / name
        with disk("nothing can be fetched"):
            remove(path)
            path.mkdir()
        return path

    def clear(self) -> None:
        """Empty tmp/, as far as the disk lets us."""
        with self._tolerated(), disk("temporary files cannot be removed"):
            for leftover in self._below("tmp"):
                remove(leftover)

    def partial(self, release: Release) -> Path:
        """Where the release is downloaded to, with what arrived earlier, and nothing of others. Raises DiskTrouble."""
        path = self.root / "partial" / release.digest
        self.drop_partial(but=path)
        with disk("nothing can be fetched"):
            path.mkdir(exist_ok=True)
        return path

    def drop_partial(self, *, but: Path | None = None) -> None:
        """Remove what was downloaded and is not kept."""
        with self._tolerated(), disk("unfinished downloads cannot be removed"):
            for path in self._below("partial"):
                if path != but:
                    remove(path)

    def keep(self, source: Path, target: Path) -> None:
        """Move a finished folder into place: its files are on disk before its name is.

        Raises:
            DiskTrouble: the target is whole or absent.
        """
        kind = target.parent.name
        with disk(f"{kind}/{target.name[:12]} cannot be kept"):
            for path in (*source.rglob("*"), source):
                if not path.is_symlink():
                    sync(path)
            self._failpoint(f"{kind}_synced")
            remove(target)
            source.replace(target)
            self._failpoint(f"{kind}_renamed")
            sync(target.parent)

    def sweep(self, pointer: Pointer) -> None:
        """Remove releases and metadata that neither this pointer nor one that may be on disk names."""
        named = (pointer, *self._on_disk)
        wanted = {release.digest for one in named for release in (one.active, one.previous) if release}
        wanted |= {path.name for one in named for path in self.metadata_copies(one)}
        with self._tolerated(), disk("old releases cannot be removed"):
            for path in self._below("releases", "metadata"):
                if path.name not in wanted:
                    remove(path)

    def refusals(self) -> tuple[Refusal, ...]:
        """Releases in quarantine, oldest first."""
        return self._refusals

    def quarantine(self, refusal: Refusal) -> None:
        """Remember that a release was refused; it is not tried again."""
        others = [r for r in self._refusals if (r.version, r.digest) != (refusal.version, refusal.digest)]
        self._refusals = (*others, refusal)[-KEPT_REFUSALS:]
        self._pending[QUARANTINE] = [asdict(r) for r in self._refusals]
        self._write_pending()

    def _make_folders(self) -> None:
        with disk(f"state folder {self.root} cannot be made"):
            for name in FOLDERS:
                make_folders(self.root / name)

    def _below(self, *names: str) -> list[Path]:
        return [path for name in names if (self.root / name).is_dir() for path in (self.root / name).iterdir()]

    def forget(self, version: int) -> None:
        """Take a version out of quarantine: it is tried again when it is wanted."""
        self._refusals = tuple(refusal for refusal in self._refusals if refusal.version != version)
        self._pending[QUARANTINE] = [asdict(refusal) for refusal in self._refusals]
        self._write_pending()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeError(
                f"state folder {self.root} is in use by another node; end that one or give another with --state"
            ) from None
        except OSError:  # a file system without locks: the operator sees to it
            pass

    def _read_pointer(self) -> Pointer:
        path = self.root / POINTER
        try:
            document = json.loads(path.read_bytes())
            active, previous = (Release(**document[k]) if document[k] else None for k in ("active", "previous"))
            return Pointer(**document | {"active": active, "previous": previous})
        except FileNotFoundError:
            return Pointer()
        except OSError as error:
            raise NodeError(f"{path} cannot be read: {error.strerror}; mend the disk, then start again") from error
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise NodeError(f"{path} is damaged ({error}); remove the state folder to start anew") from error

    def _read_refusals(self) -> tuple[Refusal, ...]:
        path = self.root / QUARANTINE
        try:
            return tuple(Refusal(**entry) for entry in json.loads(path.read_bytes()))
        except FileNotFoundError:
            return ()
        except (OSError, ValueError, TypeError, RecursionError) as error:
            # What was refused is tried once more and refused again; a node that does not start would be worse.
            self.problem = DiskTrouble("damaged_quarantine", f"{path} is damaged ({error}); the node starts a new one")
            return ()

    def _write_pending(self) -> None:
        for name, value in list(self._pending.items()):
            with self._tolerated():
                self._write_pointer(value) if name == POINTER else self._write(name, value)
                del self._pending[name]

    def _write_pointer(self, pointer: Pointer) -> None:
        def renaming() -> None:
            if pointer not in self._on_disk:
                self._on_disk.append(pointer)

        self._write(POINTER, asdict(pointer), renaming)
        self._pointer, self._on_disk = pointer, [pointer]

    def _write(self, name: str, value: Any, renaming: Callable[[], None] = lambda: None) -> None:
        """Write under a temporary name, sync, rename, sync the folder. `renaming` is called when it may be on disk."""
        kind, temporary = name.removesuffix(".json"), self.root / "tmp" / name
        with disk(f"{name} cannot be written"):
            remove(temporary)  # after a failed sync, what was written before must not count
            temporary.write_bytes(pretty_json(value))
            self._failpoint(f"{kind}_written")
            sync(temporary)
            self._failpoint(f"{kind}_synced")
            renaming()
            temporary.replace(self.root / name)
            self._failpoint(f"{kind}_renamed")
            sync(self.root)

    @contextlib.contextmanager
    def _tolerated(self) -> Iterator[None]:
        try:
            yield
        except DiskTrouble as trouble:
            self.problem = trouble
