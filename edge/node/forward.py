"""Send what waits in the spool, in a short-lived child: connections and their memory are gone when it ends.

    python -m edge.node.forward SPOOL TARGET NODE

TARGET is a folder, or s3://bucket[/prefix] with EDGEDISTILL_FEEDBACK_ENDPOINT, _REGION, _ACCESS_KEY and _SECRET_KEY in
the environment (and _CA, a PEM file, for a store with a certificate of one's own authority). Each file becomes
`feedback/<node>/<day>/<name>`, created and never overwritten. Prints one JSON line: {"sent": n, "error": sentence}.
"""

import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from edge.node.spool import Waiting, remove, waiting
from edgedistill.errors import EdgeDistillError, NodeError
from edgedistill.storage import DirectoryStore, is_key

LIMIT_S = 240.0  # of one round
LIMIT_BYTES = 256 << 20
PREFIX = "EDGEDISTILL_FEEDBACK_"


class Target(Protocol):
    """Where feedback goes."""

    def create(self, key: str, data: bytes) -> None:
        """Create the object; one that is there stays as it is. Raises StorageError."""


class FolderTarget:
    """The object store as a folder, for example a mounted one."""

    def __init__(self, folder: Path) -> None:
        self._store = DirectoryStore(folder)

    def create(self, key: str, data: bytes) -> None:
        if not self._store.exists(key):
            self._store.put(key, data)


def open_target(address: str, environment: Mapping[str, str]) -> Target:
    """A target from what the operator wrote; nothing is sent.

    Raises:
        NodeError: no such kind of address, or a variable is missing.
    """
    if address.startswith("s3://"):
        from edge.node.s3_put import S3Target

        return S3Target.of(address, environment, prefix=PREFIX)
    if "://" in address.removeprefix("file://"):
        raise NodeError(f"feedback cannot go to {address!r}; give a folder or s3://bucket[/prefix], --feedback TARGET")
    return FolderTarget(Path(address.removeprefix("file://")))


def check_node(name: str) -> None:
    """Raise NodeError when a node's name can be no part of a key."""
    if "/" in name or not is_key(f"feedback/{name}/x"):
        raise NodeError(
            f"the node's name {name!r} can be no part of a key; give letters, digits and -: --node-name NAME"
        )


def send(spool: Path, target: Target, node: str, *, until: float) -> Iterator[Waiting]:
    """Send and remove what is whole, the oldest day first, until a moment of time.monotonic(); gives what was sent.

    Raises:
        StorageError: the target takes nothing; what was not sent waits.
    """
    for one in waiting(spool):
        if time.monotonic() > until:
            break
        files = _read(one)
        if files is None:
            remove(one)  # torn by a power cut
            continue
        for path, data in files:
            target.create(f"feedback/{node}/{one.day}/{path.name}", data)
        remove(one)
        yield one


def _read(one: Waiting) -> list[tuple[Path, bytes]] | None:
    """The files with their bytes; None when they are not what they were, or are gone since."""
    try:
        files = [(path, path.read_bytes()) for path in one.files]
        json.loads(files[-1][1])
    except (OSError, ValueError):
        return None
    if one.picture and hashlib.sha256(files[0][1]).hexdigest() != one.picture.stem:
        return None
    return files


def main() -> None:
    """The child."""
    resource.setrlimit(resource.RLIMIT_DATA, (LIMIT_BYTES, LIMIT_BYTES))
    spool, address, node = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    sent, problem = 0, ""
    try:
        check_node(node)
        for _ in send(spool, open_target(address, os.environ), node, until=time.monotonic() + LIMIT_S):
            sent += 1
    except (EdgeDistillError, OSError) as error:
        problem = str(error)
    sys.stdout.write(json.dumps({"sent": sent, "error": problem}) + "\n")


if __name__ == "__main__":
    main()
