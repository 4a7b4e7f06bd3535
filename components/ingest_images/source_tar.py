"""A tar of an image folder, read as a stream: nothing is unpacked, and one member at a time is in memory."""

import lzma
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from components.ingest_images.layout import Layout, is_hidden, printable
from components.ingest_images.sources import MAX_BYTES, Entry, Item, Refusal, Source, too_big
from edgedistill.errors import DatasetError
from edgedistill.storage import file_digest

_BROKEN = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError)
_EXTENSIONS = (
    *(tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.SOLARIS_XHDTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
)


class _Member(tarfile.TarInfo):
    """A header whose extension (a long name) may not claim to be large: tarfile reads it whole."""

    def _proc_member(self, archive: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type in _EXTENSIONS and self.size > 1 << 20:
            raise tarfile.ReadError(f"a header extension of {self.size:,} bytes")
        return super()._proc_member(archive)  # type: ignore[misc,no-any-return]  # not in the stubs


class Tar(Source):
    """A .tar, compressed or not."""

    serial = True

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._layout = Layout(strip_top=True)
        self._count = 0  # members that were seen
        self.total = path.stat().st_size

    def digest(self) -> str:
        try:
            return f"tar:{file_digest(self._path)}"
        except OSError as error:
            raise DatasetError(f"{str(self._path)!r} cannot be read: {error.strerror}") from error

    def items(self) -> Iterator[Item | Refusal]:
        before = self._stamp()
        try:
            with self._path.open("rb") as raw, tarfile.open(fileobj=raw, mode="r|*", tarinfo=_Member) as archive:
                while member := archive.next():
                    archive.members.clear()  # type: ignore[attr-defined]  # else it keeps every header
                    self._count += 1
                    if found := self._item(archive, member):
                        yield found
                    self.position = _told(raw)
        except _BROKEN as error:
            raise self._broken(error) from error
        if self._stamp() != before:
            raise DatasetError(f"{str(self._path)!r} changed while it was read; run the same command again")
        self.notes += self._layout.notes()

    def settle(self, entry: Entry) -> Entry:
        label, split = self._layout.place(entry.name)
        return Entry(entry.name, label, split, entry.size)

    def _item(self, archive: tarfile.TarFile, member: tarfile.TarInfo) -> Item | Refusal | None:
        name = printable(member.name.removeprefix("./"))
        parts = tuple(name.split("/"))
        if member.isdir() or is_hidden(tuple(part for part in parts if part != "..")):
            return None
        if name.startswith("/") or ".." in parts:
            return Refusal(name, "unsafe-path", "an absolute path or one with '..'")
        if not member.isreg():
            link = member.issym() or member.islnk()
            return Refusal(name, "link" if link else "device", "a link" if link else "no regular file")
        if member.size > MAX_BYTES:
            return Refusal(name, "too-big", str(too_big(member.size)))
        self._layout.see(name)

        def read() -> bytes:
            try:
                handle = archive.extractfile(member)
                return handle.read() if handle else b""
            except _BROKEN as error:
                raise self._broken(error) from error

        return Item(Entry(name, None, size=member.size), read)

    def _broken(self, error: Exception) -> DatasetError:
        return DatasetError(
            f"{str(self._path)!r} is no complete tar: {error} after {self._count:,} members; copy or download it again"
        )

    def _stamp(self) -> tuple[int, int, int]:
        status = self._path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns


def _told(raw: BinaryIO) -> float:
    return float(raw.tell())
