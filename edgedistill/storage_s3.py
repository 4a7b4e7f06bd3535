"""The object store in a bucket: MinIO, or any S3 that honours conditions on PUT (Amazon's does since November 2024).

One PUT takes up to 5 GiB and is streamed from the file, so nothing is ever sent in parts.
"""

import base64
import hashlib
import io
import mimetypes
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from urllib3.exceptions import HTTPError

from edgedistill.errors import ConfigError, StorageError, SwapConflict
from edgedistill.s3_requests import PATIENCE_S, S3Access, S3Bucket
from edgedistill.storage import BLOCK, Entry, checked_key, checked_prefix, digest, is_key

_LARGEST = 5 * 1024**3  # bytes in one PUT
_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?")


class S3Store:
    """A bucket, or the keys below a prefix in one, as an object store."""

    def __init__(self, uri: str, access: S3Access, *, patience_s: float = PATIENCE_S) -> None:
        """No request is made.

        Raises:
            ConfigError: the address is none.
        """
        found = _ADDRESS.fullmatch(uri)
        prefix = (found["prefix"] or "").rstrip("/") if found else ""
        if found is None or (prefix and not is_key(prefix)):
            shown = "with a user in it" if "@" in uri else repr(uri)  # a password could be there
            raise ConfigError(f"store address {shown} is not allowed; expected s3://bucket or s3://bucket/prefix")
        self.uri = f"s3://{found['bucket']}" + (f"/{prefix}" if prefix else "")
        self._prefix = f"{prefix}/" if prefix else ""
        self._bucket = S3Bucket(found["bucket"], access, patience_s=patience_s)
        self._bucket_seen = False

    def close(self) -> None:
        """End the connections; the next call opens new ones."""
        self._bucket.close()

    def get(self, key: str) -> bytes:
        return b"".join(self.stream(key))

    def stream(self, key: str) -> Iterator[bytes]:
        offset, etag, vain = 0, "", 0
        while True:
            response = self._open(key, offset, etag)
            etag, before = response.headers.get("ETag", ""), offset
            try:
                for block in response.stream(BLOCK, decode_content=False):
                    offset += len(block)
                    yield block
                return
            except HTTPError as error:  # cut on the way: go on where it was cut
                vain = vain + 1 if offset == before else 0
                if vain == 5:
                    raise self._bucket.gone(f"GET {key!r}", error) from error
                time.sleep(0.2 * vain)
            finally:
                response.close()
                response.release_conn()

    def size(self, key: str) -> int:
        response = self._ask("HEAD", key, also=(404,))
        if response.status == 404:
            raise self._absent(key)
        return int(response.headers["Content-Length"])

    def digest(self, key: str) -> str:
        found = hashlib.sha256()
        for block in self.stream(key):
            found.update(block)
        return found.hexdigest()

    def put(self, key: str, data: bytes) -> None:
        if self._create(key, lambda: data, size=len(data), md5=hashlib.md5(data, usedforsecurity=False)):
            return
        if self.digest(key) != digest(data):
            raise StorageError(f"{key!r} already holds other bytes; objects are written once")

    def put_file(self, key: str, path: Path) -> None:
        try:
            with path.open("rb") as handle:
                size = path.stat().st_size
                sha256 = hashlib.file_digest(handle, "sha256").hexdigest()
                if not self.exists(key) and self._create_from(key, handle, size):
                    return
        except OSError as error:
            raise StorageError(f"cannot read {path} for {key!r}: {error.strerror or error}") from error
        if self.digest(key) != sha256:
            raise StorageError(f"{key!r} already holds other bytes; objects are written once")

    def exists(self, key: str) -> bool:
        response = self._ask("HEAD", key, also=(404,))
        if response.status == 404 and not self._bucket_seen:  # a HEAD's 404 does not say what is absent
            self._bucket.check(self._prefix)
            self._bucket_seen = True
        return bool(response.status == 200)

    def list(self, prefix: str) -> Iterator[str]:
        return (entry.key for entry in self.entries(prefix))

    def entries(self, prefix: str) -> Iterator[Entry]:
        found = self._bucket.list(self._prefix + checked_prefix(prefix))
        ours = (replace(entry, key=entry.key.removeprefix(self._prefix)) for entry in found)
        return iter(sorted((entry for entry in ours if is_key(entry.key)), key=lambda entry: entry.key))

    def swap(self, key: str, data: bytes, *, expected: bytes | None) -> None:
        moved = SwapConflict(f"{key!r} was moved by somebody else; run the same command again")
        current, etag = self._read(key)
        if current != expected:
            raise moved
        condition = {"If-None-Match": "*"} if expected is None else {"If-Match": etag}
        headers = _headers(key, len(data), hashlib.md5(data, usedforsecurity=False)) | condition

        def once(again: bool) -> bool:
            answer = self._send("PUT", key, body=data, headers=headers, also=(404, 412))
            # A refused second try: the first one may have been done although its answer was lost.
            return answer.status == 200 or (again and self._read(key)[0] == data)

        if not self._bucket.patiently(f"PUT {key!r}", once):
            raise moved

    def delete(self, key: str) -> None:
        self._ask("DELETE", key, also=(404,))

    def _create(self, key: str, body: Callable[[], bytes | BinaryIO], *, size: int, md5: Any) -> bool:
        """Whether the object was made; not when the key is taken, be it by a try of ours whose answer was lost."""
        headers = _headers(key, size, md5) | {"If-None-Match": "*"}
        answer = self._bucket.patiently(
            f"writing {key!r}", lambda _: self._send("PUT", key, body=body(), headers=headers, also=(412,))
        )
        return bool(answer.status == 200)

    def _create_from(self, key: str, handle: io.BufferedReader, size: int) -> bool:
        if size > _LARGEST:
            raise StorageError(f"{key!r} has {size:,} bytes; a bucket takes at most {_LARGEST:,} in one object")

        def rewound() -> io.BufferedReader:
            handle.seek(0)
            return handle

        return self._create(key, rewound, size=size, md5=hashlib.file_digest(rewound(), _md5))

    def _read(self, key: str) -> tuple[bytes | None, str]:
        """The bytes and their ETag; None when absent."""
        response = self._ask("GET", key, also=(404,))
        return (None, "") if response.status == 404 else (response.data, response.headers["ETag"])

    def _open(self, key: str, offset: int, etag: str) -> Any:
        """A response whose body is unread. Behind `offset` only of the bytes that were begun."""
        headers = {"Range": f"bytes={offset}-", "If-Match": etag} if offset else {}
        response = self._ask("GET", key, headers=headers, also=(404, 412), unread=True)
        if response.status == (206 if offset else 200):
            return response
        response.close()
        response.release_conn()
        if response.status == 404:
            raise self._absent(key)
        raise StorageError(f"{key!r} changed in store {self.uri} while it was read; run the same command again")

    def _send(self, method: str, key: str, **options: Any) -> Any:
        return self._bucket.send(method, self._prefix + checked_key(key), **options)

    def _ask(self, method: str, key: str, **options: Any) -> Any:
        return self._bucket.patiently(f"{method} {key!r}", lambda _: self._send(method, key, **options))

    def _absent(self, key: str) -> StorageError:
        return StorageError(f"no object {key!r} in store {self.uri}: No such file or directory")


def _md5() -> Any:
    return hashlib.md5(usedforsecurity=False)


def _headers(key: str, size: int, md5: Any) -> dict[str, str]:
    """The store compares the digest with what arrived, and refuses what was damaged on the way. The type is for people
    who open a report in a browser."""
    encoded = base64.b64encode(md5.digest()).decode()
    kind = mimetypes.guess_type(key)[0] or "application/octet-stream"
    return {"Content-Length": str(size), "Content-MD5": encoded, "Content-Type": kind}
