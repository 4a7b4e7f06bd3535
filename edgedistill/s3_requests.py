"""Signed requests to one bucket, repeated while the store is away.

minio-py's own `put_object` drops If-None-Match without a word, and a PUT without it overwrites. So objects go through
`get_presigned_url`, which is public and documented, and urllib3, which minio-py itself uses: the signature covers
method, host and key; Content-MD5, If-Match and If-None-Match are ordinary headers.
"""

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, BinaryIO, TypeVar

import urllib3
from minio import Minio
from minio.error import InvalidResponseError, S3Error, ServerError

from edgedistill.errors import ConfigError, StorageError
from edgedistill.storage import Entry

PATIENCE_S = 60.0  # how long a store may be away before a step gives up
_LONGEST_PAUSE_S = 5.0
_BLOCK = 1 << 20  # bytes that are handed to a socket at once
_TIMEOUT = urllib3.Timeout(connect=5, read=30)
_SIGNED_FOR = timedelta(minutes=15)
_AWAY = frozenset({408, 409, 429, 500, 502, 503, 504})  # 409: another conditional PUT of the key is under way
_DAMAGED = frozenset({"BadDigest", "IncompleteBody", "RequestTimeout"})  # on the way to the store: send it again
_T = TypeVar("_T")


@dataclass(frozen=True)
class S3Access:
    """Where the store is and who asks. Secrets are never shown: not in a repr, a message, a record or a file."""

    endpoint: str  # http(s)://host[:port]
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    session_token: str | None = field(default=None, repr=False)
    authorities: str | None = None  # PEM file; None: the system's

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> "S3Access":
        """From the variables that every S3 tool reads.

        Raises:
            ConfigError: one of them is missing.
        """

        def needed(*names: str) -> str:
            for name in names:
                if environment.get(name):
                    return environment[name]
            raise ConfigError(f"an s3:// store needs {names[0]} in the environment; export it and run the same again")

        endpoint = needed("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL")
        if not re.fullmatch(r"https?://[^/@\s]+/?", endpoint):
            raise ConfigError("AWS_ENDPOINT_URL_S3 is no address; expected for example http://127.0.0.1:9000")
        return S3Access(
            endpoint.rstrip("/"),
            needed("AWS_REGION"),
            needed("AWS_ACCESS_KEY_ID"),
            needed("AWS_SECRET_ACCESS_KEY"),
            environment.get("AWS_SESSION_TOKEN") or None,
            environment.get("AWS_CA_BUNDLE") or None,
        )


class _Away(Exception):  # noqa: N818 - what happened
    """The store did not do what was asked, and may do it in a moment."""


class S3Bucket:
    """One bucket, and who asks."""

    def __init__(self, name: str, access: S3Access, *, patience_s: float) -> None:
        """No request is made."""
        self.name, self.endpoint = name, access.endpoint
        self._patience_s = patience_s
        pool: dict[str, Any] = {"ca_certs": access.authorities} if access.authorities else {}
        self._http = urllib3.PoolManager(maxsize=8, timeout=_TIMEOUT, retries=False, blocksize=_BLOCK, **pool)
        scheme, _, host = access.endpoint.partition("://")
        self._client = Minio(
            host,
            access_key=access.access_key,
            secret_key=access.secret_key,
            session_token=access.session_token,
            region=access.region,
            secure=scheme == "https",
            http_client=self._http,
        )

    def close(self) -> None:
        """End the connections; the next call opens new ones."""
        # clear() only forgets the pools; after an error, which refers to its pool, they would stay open for a while.
        for pool in [self._http.pools[key] for key in self._http.pools.keys()]:  # noqa: SIM118 - no mapping of dict's
            pool.close()
        self._http.clear()

    def list(self, prefix: str) -> list[Entry]:
        """All objects whose key starts with the prefix."""

        def once(_: bool) -> list[Entry]:
            found = self._client.list_objects(self.name, prefix=prefix, recursive=True)
            return [Entry(str(one.object_name), one.size or 0, one.last_modified.timestamp()) for one in found]

        return self.patiently(f"LIST {prefix!r}", once)

    def check(self, prefix: str) -> None:
        """Raise StorageError when there is no such bucket. A policy may allow no more than to list below the prefix."""
        listing = self._client.list_objects
        self.patiently("LIST", lambda _: next(listing(self.name, prefix=prefix), None))

    def send(
        self,
        method: str,
        key: str,
        *,
        body: bytes | BinaryIO | None = None,
        headers: Mapping[str, str] | None = None,
        also: tuple[int, ...] = (),
        unread: bool = False,
    ) -> Any:
        """One request. An answer that is neither good nor listed in `also` is raised."""
        url = self._client.get_presigned_url(method, self.name, key, _SIGNED_FOR)
        response = self._http.request(
            method, url, body=body, headers=dict(headers or {}), preload_content=not unread, retries=False
        )
        if response.status in (200, 204, 206):
            return response
        found = re.search(rb"<Code>(\w+)</Code>", response.data)  # reads it to its end
        code = found[1].decode() if found else str(response.status)
        response.release_conn()
        if response.status in also and code != "NoSuchBucket":
            return response
        self._check_answer(response.status, code, f"{method} {key!r}")
        raise _Away(f"it answers {response.status} {code}")

    def patiently(self, doing: str, once: Callable[[bool], _T]) -> _T:
        """Call `once` until it answers, for as long as the store may be away.

        `once` is told whether an earlier try may have reached the store.
        """
        deadline, pause = float("inf"), 0.1
        while True:
            try:
                return once(deadline < float("inf"))
            except (_Away, urllib3.exceptions.HTTPError, S3Error, ServerError, InvalidResponseError) as error:
                if isinstance(error, S3Error):  # of a listing
                    self._check_answer(error.response.status, str(error.code), doing)
                deadline = min(deadline, time.monotonic() + self._patience_s)
                if time.monotonic() + pause > deadline or isinstance(error, urllib3.exceptions.SSLError):
                    raise self.gone(doing, error) from error
            time.sleep(pause * random.uniform(0.5, 1))  # not all workers of a run at the same instant
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    def _check_answer(self, status: int, code: str, doing: str) -> None:
        """Raise StorageError when the same request will never be answered otherwise."""
        if status in _AWAY or code in _DAMAGED:
            return
        if code == "NoSuchBucket":
            raise StorageError(f"there is no bucket {self.name!r} at {self.endpoint}; make it, or correct --store")
        raise StorageError(
            f"the store at {self.endpoint} refuses {doing} with {status} {code}; "
            f"check the credentials in the environment and the policy of bucket {self.name!r}"
        )

    def gone(self, doing: str, error: Exception) -> StorageError:
        """The one sentence for a store that stayed away."""
        cause = error.__cause__ or error  # never the whole text of urllib3's errors: some name the signed address
        reason = getattr(cause, "strerror", None) or (str(cause) if isinstance(cause, _Away) else type(cause).__name__)
        return StorageError(
            f"bucket {self.name!r} at {self.endpoint} did not answer {doing} ({reason}); "
            "start it or correct AWS_ENDPOINT_URL_S3, then run the same command: it goes on from what is complete"
        )
