"""What a failing disk means to a node: a reason and one sentence, never the end of serving."""

import contextlib
import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from edgedistill.errors import NodeError

_REASONS = {
    errno.ENOSPC: ("disk_full", "the disk is full; the node goes on by itself when there is space"),
    errno.EDQUOT: ("disk_full", "the disk's quota is used up; the node goes on by itself when there is space"),
    errno.EROFS: ("disk_read_only", "the disk is mounted read-only; the node goes on by itself when it can be written"),
}


class DiskTrouble(NodeError):  # noqa: N818 - what the node sees, not what it did wrong
    """The state folder cannot be written or read just now. `reason` is a slug for /status and metrics."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason

    @staticmethod
    def of(error: OSError, doing: str) -> "DiskTrouble":
        """`disk_full`, `disk_read_only` or `disk_error`, and what could not be done."""
        said = f"the disk fails ({error.strerror or error}); the node tries again"
        reason, sentence = _REASONS.get(error.errno or 0, ("disk_error", said))
        return DiskTrouble(reason, f"{doing}: {sentence}")


@contextlib.contextmanager
def disk(doing: str) -> Iterator[None]:
    """Turn an operating system's error into DiskTrouble; `doing` begins its sentence."""
    try:
        yield
    except OSError as error:
        raise DiskTrouble.of(error, doing) from error


def copy_folder(source: Path, target: Path) -> None:
    """Copy files, folders and links. Raises OSError as the disk gave it: shutil.copytree gives its text only."""
    target.mkdir(exist_ok=True)
    for path in source.iterdir():
        copy = target / path.name
        if path.is_symlink():
            copy.symlink_to(path.readlink())
        elif path.is_dir():
            copy_folder(path, copy)
        else:
            shutil.copyfile(path, copy)


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
