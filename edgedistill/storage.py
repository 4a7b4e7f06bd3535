"""The object store. The same keys in a directory and in a bucket; nothing is overwritten but the small HEAD files.

A key is a relative POSIX path such as `datasets/demo/images/<sha256>.png`. Objects are written once: writing the same
bytes again is a no-op, writing other bytes is an error. HEAD files move by compare-and-swap (`swap`).
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from edgedistill.errors import ConfigError, StorageError, SwapConflict

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=@-]*(/[A-Za-z0-9_][A-Za-z0-9._=@-]*)*")


class ObjectStore(Protocol):
    """What every step uses; `open_store` gives one."""

    uri: str  # what the user wrote, fit for open_store

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises StorageError when it is absent."""

    def put(self, key: str, data: bytes) -> None:
        """Write once. Raises StorageError when the key holds other bytes."""

    def put_file(self, key: str, path: Path) -> None:
        """Write once, from a file, without reading it whole."""

    def exists(self, key: str) -> bool:
        """Whether the object is there, complete."""

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that start with the prefix, sorted."""

    def swap(self, key: str, data: bytes, *, expected: bytes | None) -> None:
        """Replace a HEAD file that still holds `expected` (None: is absent). Raises SwapConflict when it moved."""

    def delete(self, key: str) -> None:
        """Remove the object; absent is fine."""


def open_store(uri: str | Path) -> ObjectStore:
    """A store from what the user wrote: a folder, or `file:///folder`.

    Raises:
        ConfigError: an address of a kind that this version does not know.
    """
    text = str(uri)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text:
        raise ConfigError(f"store {text!r} is of no known kind; give a folder, for example --store .edgedistill/store")
    return DirectoryStore(Path(text))


class DirectoryStore:
    """A folder as an object store: write to a temporary name, fsync, link into place, fsync the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = str(self.root)

    def path(self, key: str) -> Path:
        """Where the object lies. Raises StorageError for a key that could leave the store."""
        if not _KEY.fullmatch(key) or ".." in key.split("/"):
            raise StorageError(f"key {key!r} is not allowed; expected a relative path such as 'runs/7/record.json'")
        return self.root / key

    def get(self, key: str) -> bytes:
        try:
            return self.path(key).read_bytes()
        except OSError as error:
            raise StorageError(f"no object {key!r} in store {self.uri}: {error.strerror}") from error

    def put(self, key: str, data: bytes) -> None:
        with self._temporary(key) as temporary:
            temporary.write_bytes(data)
            self._link(temporary, key)

    def put_file(self, key: str, path: Path) -> None:
        with self._temporary(key) as temporary, path.open("rb") as source, temporary.open("wb") as sink:
            while block := source.read(1 << 20):
                sink.write(block)
            sink.flush()
            self._link(temporary, key)

    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        folder = self.root / prefix.rpartition("/")[0]
        keys = (p.relative_to(self.root).as_posix() for p in folder.rglob("*") if p.is_file())
        return iter(sorted(k for k in keys if k.startswith(prefix) and "/.tmp-" not in f"/{k}"))

    def swap(self, key: str, data: bytes, *, expected: bytes | None) -> None:
        target = self.path(key)
        with self._lock(), self._temporary(key) as temporary:
            current = target.read_bytes() if target.exists() else None
            if current != expected:
                raise SwapConflict(f"{key!r} was moved by somebody else; run the same command again")
            temporary.write_bytes(data)
            _sync(temporary)
            temporary.replace(target)
            _sync(target.parent)

    def delete(self, key: str) -> None:
        self.path(key).unlink(missing_ok=True)

    @contextlib.contextmanager
    def _temporary(self, key: str) -> Iterator[Path]:
        target = self.path(key)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(prefix=".tmp-", dir=target.parent)
            os.close(descriptor)
            try:
                yield Path(name)
            finally:
                Path(name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {key!r} to store {self.uri}: {error.strerror or error}") from error

    def _link(self, temporary: Path, key: str) -> None:
        """The first complete object wins; a second writer must bring the same bytes."""
        target = self.path(key)
        temporary.chmod(0o644)  # mkstemp makes 0600; a store is read by servers under other users
        _sync(temporary)
        try:
            os.link(temporary, target)
        except FileExistsError:
            if file_digest(target) != file_digest(temporary):
                raise StorageError(f"{key!r} already holds other bytes; objects are written once") from None
        _sync(target.parent)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        self.root.mkdir(parents=True, exist_ok=True)
        with (self.root / ".lock").open("w") as handle:
            fcntl.flock(handle, fcntl.LOCK_EX)
            yield


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file in hexadecimal, read in blocks."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def canonical_json(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values give equal bytes, and so equal digests."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def pretty_json(value: Any) -> bytes:
    """JSON for people; sorted keys, so that it too is a function of the value alone."""
    return (json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False) + "\n").encode()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
