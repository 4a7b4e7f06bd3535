"""Downloads that survive a broken connection, a kill and a reboot, and end at the signed length.

    partial/<digest of the release>/model.bin.part     what arrived so far; asked on from there
    partial/<digest of the release>/model.bin          whole, and what was signed

Bytes that arrived are not fetched again: a connection that breaks is opened again with a Range, a node that was killed
goes on with what lies in its state folder. Nothing is used before its signed length and digest were checked.
"""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

import urllib3
from tuf.api.exceptions import DownloadError, DownloadHTTPError, DownloadLengthMismatchError, LengthOrHashMismatchError
from tuf.api.metadata import TargetFile
from tuf.ngclient import FetcherInterface

TIMEOUT_S = 10.0  # to connect, and without a byte
BLOCK = 1 << 16
SMALL_BYTES = 4 << 20  # the most of any metadata file, manifest or index, whatever lengths were signed
PATIENCE = 5  # attempts without one new byte before the origin counts as unreachable
PAUSE_S = 0.1  # before the second attempt; doubled with each further one
UNSATISFIABLE = 416  # HTTP: there is nothing at this offset

Read = Callable[[str, int], Iterator[bytes]]  # (URL, offset) -> the bytes from there on; raises DownloadError


class Redirected(DownloadHTTPError):  # noqa: N818 - what the origin did
    """The origin sent us elsewhere; a captive portal does that, and a thief."""


class _Fetcher(FetcherInterface):
    def download_bytes(self, url: str, max_length: int) -> bytes:
        """All metadata comes this way. A snapshot's key may sign any length; no more than the limit is read."""
        return super().download_bytes(url, min(max_length, SMALL_BYTES))

    def read(self, url: str, start: int) -> Iterator[bytes]:
        """The bytes of a file from an offset on. Raises DownloadError."""
        raise NotImplementedError

    def _fetch(self, url: str) -> Iterator[bytes]:
        return self.read(url, 0)


class FolderFetcher(_Fetcher):
    """Reads the repository from a mounted folder."""

    def read(self, url: str, start: int) -> Iterator[bytes]:
        """The file from an offset on."""
        path = Path(url2pathname(urlsplit(url).path))
        if not path.is_file():
            raise DownloadHTTPError(f"no {path.name} at the origin", 404)
        try:
            with path.open("rb") as handle:
                handle.seek(start)
                while block := handle.read(BLOCK):
                    yield block
        except OSError as error:
            raise DownloadError(f"the origin cannot be read: {error}") from error


class HttpFetcher(_Fetcher):
    """Reads the repository from one web server; never follows a redirect to another."""

    def __init__(self, ca: Path | None) -> None:
        timeout = urllib3.Timeout(connect=TIMEOUT_S, read=TIMEOUT_S)
        self._pool = urllib3.PoolManager(timeout=timeout, retries=False, ca_certs=str(ca) if ca else None)

    def read(self, url: str, start: int) -> Iterator[bytes]:
        """The file from an offset on; a server that knows no ranges sends all of it."""
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
        try:
            response = self._pool.request("GET", url, headers=headers, preload_content=False, redirect=False)
            with response:
                skip = start - _first_byte(response.status, response.headers.get("Content-Range", ""), start)
                # read1: what arrived before a break is not lost. A gzip bomb stays a small wrong file.
                while block := response.read1(BLOCK, decode_content=False):
                    if skip < len(block):
                        yield block[skip:]
                    skip = max(0, skip - len(block))
        except urllib3.exceptions.HTTPError as error:
            raise DownloadError(f"the origin does not answer: {error}") from error


def _first_byte(status: int, content_range: str, asked: int) -> int:
    """Where in the file an answer begins. Raises DownloadHTTPError when it is none."""
    if 300 <= status < 400:
        raise Redirected("the origin redirects, which is not followed", status)
    if status == 200:
        return 0
    if status == 206 and asked and content_range.startswith(f"bytes {asked}-"):
        return asked
    raise DownloadHTTPError(f"the origin answered {status} {content_range}".strip(), status)


def fetch_target(read: Read, url: str, target: TargetFile, file: Path) -> None:
    """Bring one signed file here; a file that an earlier attempt brought whole is only checked.

    Raises:
        DownloadError: the origin does not answer; what arrived is kept for the next attempt.
        DownloadLengthMismatchError: it sends more than was signed.
        LengthOrHashMismatchError: it sends something else.
    """
    if file.is_file() and _is_signed(target, file):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(file.name + ".part")
    is_pieced = download(read, url, part, target.length)
    if is_pieced and not _is_signed(target, part):
        part.unlink()  # a power cut may have torn what lay here: that is not the origin's fault
        download(read, url, part, target.length)
    try:
        with part.open("rb") as handle:
            target.verify_length_and_hashes(handle)
    except LengthOrHashMismatchError:
        part.unlink()
        raise
    part.replace(file)


def download(read: Read, url: str, part: Path, length: int) -> bool:
    """Append to `part` until it has `length` bytes. Tells whether it was put together from several answers.

    Raises:
        DownloadError: no new byte in PATIENCE attempts, or an answer that is an error.
        DownloadLengthMismatchError: the origin sends more than `length`.
        LengthOrHashMismatchError: the origin's file ends before `length`.
    """
    held = part.stat().st_size if part.exists() else 0
    if held > length:
        part.unlink()
        held = 0
    is_pieced, fruitless = held > 0, 0
    while held < length:
        before = held
        try:
            held += _append(read(url, held), part, length - held)
        except DownloadHTTPError as error:
            if error.status_code != UNSATISFIABLE or not held:
                raise
        except DownloadLengthMismatchError:
            part.unlink(missing_ok=True)
            raise
        except DownloadError:
            held = part.stat().st_size if part.exists() else 0
            fruitless = 0 if held > before else fruitless + 1
            if fruitless >= PATIENCE:
                raise
            time.sleep(PAUSE_S * 2**fruitless * random.uniform(0.5, 1.5))
            is_pieced = True
            continue
        if held == before:  # an answer without an error and without a byte
            part.unlink(missing_ok=True)
            raise LengthOrHashMismatchError(f"{part.name}: the origin's file ends after {held} of {length} bytes")
        is_pieced = is_pieced or held < length
    if not part.exists():
        part.touch()  # a file of no bytes
    return is_pieced


def _append(blocks: Iterator[bytes], part: Path, room: int) -> int:
    """Write at most `room` bytes; the number written."""
    written = 0
    with part.open("ab", buffering=0) as handle:  # unbuffered: what arrived is there after a kill
        for block in blocks:
            if written + len(block) > room:
                raise DownloadLengthMismatchError(f"{part.name}: the origin sends more than was signed")
            handle.write(block)
            written += len(block)
    return written


def _is_signed(target: TargetFile, file: Path) -> bool:
    try:
        with file.open("rb") as handle:
            target.verify_length_and_hashes(handle)
    except LengthOrHashMismatchError:
        return False
    return True
