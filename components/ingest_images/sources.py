"""Where images come from: a folder, a tar, a table of paths, a data set of torchvision; all give the same entries."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from components.ingest_images.layout import Layout, is_hidden, printable
from edgedistill.errors import DatasetError, RefusedImage
from edgedistill.images import MAX_PIXELS
from edgedistill.storage import canonical_json, digest, file_digest

MAX_BYTES = 4 * MAX_PIXELS  # of one file, before it is read
WORKERS = 4  # threads that read and decode; Pillow and hashlib release the interpreter's lock
TORCHVISION = "torchvision:"
FORMS = "an image folder, a .tar, .tar.gz or .tgz of one, a .csv or .parquet of paths, or torchvision:NAME"


@dataclass(frozen=True)
class Entry:
    """One image as its source names it."""

    name: str  # fit for JSON and the screen
    label: str | None
    split: str | None = None  # what the user fixed
    size: int = 0  # bytes
    expected: str | None = None  # SHA-256 that was read before, when the source was read twice


@dataclass(frozen=True)
class Item:
    """An entry, and how its bytes are read. `read` raises RefusedImage."""

    entry: Entry
    read: Callable[[], bytes]
    read_paired: Callable[[], bytes] | None = None  # the same scene in another modality


@dataclass(frozen=True)
class Refusal:
    """One input that is not used, and why."""

    name: str
    reason: str  # its kind, a slug
    message: str


class Source:
    """What every kind of source can do."""

    serial = False  # bytes must be read in order, before the next item is asked for
    total: float = 0  # in the units of `position`

    def __init__(self) -> None:
        self.position: float = 0
        self.notes: list[str] = []

    def digest(self) -> str:
        """Names the content: equal digests mean equal entries with equal bytes."""
        raise NotImplementedError

    def items(self) -> Iterator[Item | Refusal]:
        """Every input, once, in a fixed order."""
        raise NotImplementedError

    def settle(self, entry: Entry) -> Entry:
        """The entry with what only the end of the source tells."""
        return entry


class Files(Source):
    """Entries that are files; read once for the digest and once for the pixels."""

    def __init__(self, files: list[tuple[Entry, Path, Path | None]]) -> None:
        super().__init__()
        self.total = len(files)
        self._files = files
        self._digests: list[str] | None = None

    def digest(self) -> str:
        with ThreadPoolExecutor(WORKERS) as pool:
            self._digests = list(pool.map(_content, (path for _, path, _ in self._files)))
            paired = list(pool.map(_content, (path for _, _, path in self._files)))
        names = [(entry.name, entry.label, entry.split) for entry, _, _ in self._files]
        return digest(canonical_json([names, self._digests, paired]))

    def items(self) -> Iterator[Item | Refusal]:
        for place, (entry, path, paired) in enumerate(self._files):
            expected = self._digests[place] if self._digests else None
            known = Entry(entry.name, entry.label, entry.split, file_size(path), expected)
            yield Item(known, reader(path), reader(paired) if paired else None)
            self.position = place + 1


class Folder(Files):
    """A folder with one sub-folder a class."""

    def __init__(self, root: Path) -> None:
        found = sorted(p for p in root.rglob("*") if p.is_file() and not is_hidden(p.relative_to(root).parts))
        names = [p.relative_to(root).as_posix() for p in found]
        layout = Layout(strip_top=False)
        for name in names:
            layout.see(name)
        super().__init__(
            [(Entry(printable(name), *layout.place(name)), path, None) for name, path in zip(names, found, strict=True)]
        )
        self.notes += layout.notes()


def open_source(data: str) -> Source:
    """A source from what the user wrote.

    Raises:
        DatasetError: nothing is there, or it is of no known kind.
    """
    if data.startswith(TORCHVISION):
        from components.ingest_images.source_torchvision import open_torchvision

        return open_torchvision(data.removeprefix(TORCHVISION))
    path = Path(data)
    if path.is_dir():
        return Folder(path)
    suffixes = "".join(path.suffixes[-2:]).lower()
    if not path.exists():
        raise DatasetError(f"{data!r} is no folder, file or data set that exists; --data takes {FORMS}")
    if path.is_file() and (".tar" in suffixes or suffixes.endswith((".tgz", ".tbz2", ".txz"))):
        from components.ingest_images.source_tar import Tar

        return Tar(path)
    if path.is_file() and suffixes.endswith((".csv", ".parquet")):
        from components.ingest_images.source_table import open_table

        return open_table(path)
    raise DatasetError(f"{data!r} is of no known kind; --data takes {FORMS}")


def absolute(data: str) -> str:
    """What the user wrote, independent of the working directory; a step may run in another.

    Raises:
        DatasetError: nothing is there.
    """
    if not data.startswith(TORCHVISION):
        path = Path(data).expanduser().resolve()
        if not path.exists():
            raise DatasetError(f"{data!r} is no folder, file or data set that exists; --data takes {FORMS}")
        return str(path)
    name, at, root = data.partition("@")
    return f"{name}@{Path(root).expanduser().resolve()}" if at else data


def _content(path: Path | None) -> str:
    if path is None:
        return ""
    try:
        return file_digest(path)
    except OSError as error:
        return error.strerror or "unreadable"


def file_size(path: Path) -> int:
    """Bytes; 0 of a file that cannot be looked at."""
    try:
        return path.stat().st_size
    except OSError:
        return 0


def reader(path: Path) -> Callable[[], bytes]:
    """Reads the file when called. Raises RefusedImage for one that is absent, unreadable or too big."""

    def read() -> bytes:
        try:
            if path.stat().st_size > MAX_BYTES:
                raise too_big(path.stat().st_size)
            return path.read_bytes()
        except OSError as error:
            reason = "absent" if isinstance(error, FileNotFoundError) else "unreadable"
            raise RefusedImage(reason, f"cannot be read: {error.strerror}") from error

    return read


def too_big(size: int) -> RefusedImage:
    """The refusal of a file of `size` bytes."""
    return RefusedImage("too-big", f"a file of {size:,} bytes is over the budget of {MAX_BYTES:,}; make it smaller")
