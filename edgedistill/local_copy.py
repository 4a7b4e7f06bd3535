"""What the machine of an embedded run reads as files, when the object store is no folder: releases and the report."""

import tempfile
from pathlib import Path

from edgedistill.signing import METADATA, TARGETS, TIMESTAMP, root_bytes
from edgedistill.storage import DirectoryStore, ObjectStore, digest


def local_releases(store: ObjectStore, folder: Path, *, name: str, version: int) -> Path:
    """The signed releases as a node reads them: a folder with metadata/ and targets/.

    A directory store is that already. Of another store the metadata and one release are copied, the new timestamp
    last. Nothing is checked here: the node does that.

    Args:
        store: that holds the releases.
        folder: for the copies; each repository, known by its first root, has its own in there.
        name: of the releases.
        version: that is copied.

    Raises:
        SigningError: the store holds no releases.
        StorageError: it does not give them.
    """
    if isinstance(store, DirectoryStore):
        return store.root / "releases"
    copy = DirectoryStore(folder / digest(root_bytes(store))[:16])
    timestamp = store.get(TIMESTAMP)  # first: what it leads to was written before
    wanted = (f"{METADATA}/", f"{TARGETS}/{name}/{version}/", f"{TARGETS}/{name}/")
    for key in (key for prefix in wanted for key in store.list(prefix)):
        other_release = key.startswith(wanted[2]) and key.count("/") > 3 and not key.startswith(wanted[1])
        if key != TIMESTAMP and not other_release and not copy.exists(key):
            copy_object(store, key, copy)
    held = copy.get(TIMESTAMP) if copy.exists(TIMESTAMP) else None
    if held != timestamp:
        copy.swap(TIMESTAMP, timestamp, expected=held)
    return copy.root / "releases"


def local_report(store: ObjectStore, run_id: str, folder: Path) -> Path:
    """The run's report as a file, which is in `folder` unless the store is one.

    Raises:
        StorageError: the store has no such report.
    """
    key = f"runs/{run_id}/report.html"
    if isinstance(store, DirectoryStore):
        return store.path(key)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{run_id}.html"
    path.write_bytes(store.get(key))
    return path.resolve()


def copy_object(source: ObjectStore, key: str, target: ObjectStore) -> None:
    """One object from a store to another, a block at a time."""
    with tempfile.NamedTemporaryFile() as file:
        for block in source.stream(key):
            file.write(block)
        file.flush()
        target.put_file(key, Path(file.name))
