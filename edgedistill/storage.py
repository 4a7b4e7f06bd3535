"""The object store. The same keys in a directory and in a bucket; nothing is overwritten but the small HEAD files.

A key is a relative POSIX path such as `datasets/demo/images/<sha256>.png`. Objects are written once: writing the same
bytes again is a no-op, writing other bytes is an error. HEAD files move by compare-and-swap (`swap`).
What `put` or `swap` returned from is durable and complete; one that raised may or may not have been written.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgedistill.errors import ConfigError, StorageError, SwapConflict

STORED = "store:"  # before a key, where a setting or an argument may name a file as well
BLOCK = 1 << 20  # bytes that are held at once of an object that is streamed
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=@-]*(/[A-Za-z0-9_][A-Za-z0-9._=@-]*)*")
_LONGEST, _LONGEST_PART = 700, 200  # a name in a folder ends at 255 bytes, a key in a bucket at 1024 with its prefix
_STALE_S = 24 * 3600.0  # no write takes a day: what is older was left by a writer that was killed


@dataclass(frozen=True)
class Entry:
    """An object as a listing shows it."""

    key: str
    size: int  # bytes
    modified: float  # seconds since 1970, by the store's clock


class ObjectStore(Protocol):
    """What every step uses; `open_store` gives one."""

    uri: str  # what the user wrote, fit for open_store

    def get(self, key: str) -> bytes:
        """The object's bytes. Raises StorageError when it is absent."""

    def stream(self, key: str) -> Iterator[bytes]:
        """The object's bytes in blocks. Raises StorageError when it is absent."""

    def size(self, key: str) -> int:
        """Bytes. Raises StorageError when the object is absent."""

    def digest(self, key: str) -> str:
        """SHA-256 in hexadecimal of the bytes that are stored, read in blocks. Raises StorageError when absent."""

    def put(self, key: str, data: bytes) -> None:
        """Write once. Raises StorageError when the key holds other bytes."""

    def put_file(self, key: str, path: Path) -> None:
        """Write once, from a file, without reading it whole."""

    def exists(self, key: str) -> bool:
        """Whether the object is there, complete."""

    def list(self, prefix: str) -> Iterator[str]:
        """Keys that start with the prefix, sorted."""

    def entries(self, prefix: str) -> Iterator[Entry]:
        """The same keys with size and age; an object that goes away meanwhile is left out."""

    def swap(self, key: str, data: bytes, *, expected: bytes | None) -> None:
        """Replace a HEAD file that still holds `expected` (None: is absent). Raises SwapConflict when it moved."""

    def delete(self, key: str) -> None:
        """Remove the object; absent is fine."""


def open_store(uri: str | Path) -> ObjectStore:
    """A store from what the user wrote: a folder, `file:///folder`, or `s3://bucket[/prefix]`.

    Raises:
        ConfigError: an address of a kind that this version does not know, or a variable that the bucket needs.
    """
    text = str(uri)
    if text.startswith("s3://"):
        from edgedistill.s3_requests import S3Access
        from edgedistill.storage_s3 import S3Store

        return S3Store(text, S3Access.from_environment(os.environ))
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" in text:
        raise ConfigError(
            f"store {text!r} is of no known kind; give a folder or s3://bucket, for example --store .edgedistill/store"
        )
    return DirectoryStore(Path(text))


def is_key(text: str) -> bool:
    """Whether the text is a key that both kinds of store can hold."""
    parts = text.split("/")
    short = len(text) <= _LONGEST and max(map(len, parts)) <= _LONGEST_PART
    return bool(short and _KEY.fullmatch(text) and ".." not in parts)


def checked_key(key: str) -> str:
    """The key itself. Raises StorageError for one that could leave the store, or that a store cannot hold."""
    if not is_key(key):
        shown = key if len(key) <= 80 else f"{key[:77]}..."
        raise StorageError(f"key {shown!r} is not allowed; expected a relative path such as 'runs/7/record.json'")
    return key


def checked_prefix(prefix: str) -> str:
    """The prefix itself. Raises StorageError for one that no key can start with."""
    if prefix and not is_key(prefix + "x"):
        raise StorageError(f"prefix {prefix!r} is not allowed; expected the start of a key such as 'runs/'")
    return prefix


class DirectoryStore:
    """A folder as an object store: write to a temporary name, fsync, link into place, fsync the folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.uri = str(self.root)
        self._swept = False

    def path(self, key: str) -> Path:
        """Where the object lies. Raises StorageError for a key that could leave the store."""
        return self.root / checked_key(key)

    def get(self, key: str) -> bytes:
        with self._reading(key):
            return self.path(key).read_bytes()

    def stream(self, key: str) -> Iterator[bytes]:
        with self._reading(key), self.path(key).open("rb") as handle:
            while block := handle.read(BLOCK):
                yield block

    def size(self, key: str) -> int:
        with self._reading(key):
            return self.path(key).stat().st_size

    def digest(self, key: str) -> str:
        with self._reading(key):
            return file_digest(self.path(key))

    def put(self, key: str, data: bytes) -> None:
        with self._temporary(key) as temporary:
            temporary.write_bytes(data)
            self._link(temporary, key)

    def put_file(self, key: str, path: Path) -> None:
        with self._temporary(key) as temporary, path.open("rb") as source, temporary.open("wb") as sink:
            while block := source.read(BLOCK):
                sink.write(block)
            sink.flush()
            self._link(temporary, key)

    def exists(self, key: str) -> bool:
        return self.path(key).is_file()

    def list(self, prefix: str) -> Iterator[str]:
        folder = self.root / checked_prefix(prefix).rpartition("/")[0]
        found = []
        for base, _, files in os.walk(folder, onerror=self._unlisted):
            inside = Path(base).relative_to(self.root)
            found += [(inside / file).as_posix() for file in files]
        return iter(sorted(key for key in found if key.startswith(prefix) and is_key(key)))

    def entries(self, prefix: str) -> Iterator[Entry]:
        for key in self.list(prefix):
            with contextlib.suppress(FileNotFoundError):
                found = self.path(key).stat()
                yield Entry(key, found.st_size, found.st_mtime)

    def swap(self, key: str, data: bytes, *, expected: bytes | None) -> None:
        target = self.path(key)
        with self._lock(), self._temporary(key) as temporary:
            current = target.read_bytes() if target.exists() else None
            if current != expected:
                raise SwapConflict(f"{key!r} was moved by somebody else; run the same command again")
            temporary.write_bytes(data)
            sync(temporary)
            temporary.replace(target)
            sync(target.parent)

    def delete(self, key: str) -> None:
        try:
            self.path(key).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot delete {key!r} from store {self.uri}: {error.strerror}") from error

    @contextlib.contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"no object {key!r} in store {self.uri}: {error.strerror}") from error

    def _unlisted(self, error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # nothing was ever written there
            raise StorageError(f"cannot list {error.filename} in store {self.uri}: {error.strerror}") from error

    @contextlib.contextmanager
    def _temporary(self, key: str) -> Iterator[Path]:
        """A file below `.tmp`, which no key can name; it is gone when the block ends."""
        target = self.path(key)
        try:
            folder = self.root / ".tmp"
            make_folders(folder)
            make_folders(target.parent)
            self._sweep(folder)
            descriptor, name = tempfile.mkstemp(dir=folder)
            os.fchmod(descriptor, 0o644)  # mkstemp makes 0600; a store is read by servers under other users
            os.close(descriptor)
            try:
                yield Path(name)
            finally:
                Path(name).unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"cannot write {key!r} to store {self.uri}: {error.strerror or error}") from error

    def _sweep(self, folder: Path) -> None:
        """Remove what killed writers left, once in the life of this object."""
        if not self._swept:
            self._swept = True
            for path in folder.iterdir():
                with contextlib.suppress(FileNotFoundError):  # swept by another process
                    if time.time() - path.stat().st_mtime > _STALE_S:
                        path.unlink()

    def _link(self, temporary: Path, key: str) -> None:
        """The first complete object wins; a second writer must bring the same bytes."""
        target = self.path(key)
        sync(temporary)
        try:
            os.link(temporary, target)
        except FileExistsError:
            if file_digest(target) != file_digest(temporary):
                raise StorageError(f"{key!r} already holds other bytes; objects are written once") from None
        sync(target.parent)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            handle = (self.root / ".lock").open("w")
        except OSError as error:
            raise StorageError(f"cannot write to store {self.uri}: {error.strerror}") from error
        with handle:
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


def make_folders(folder: Path) -> None:
    """Like mkdir -p; each new folder's name is on the disk when this returns."""
    if not folder.is_dir():
        make_folders(folder.parent)
        folder.mkdir(exist_ok=True)
        sync(folder.parent)


def sync(path: Path) -> None:
    """Flush a file or folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
