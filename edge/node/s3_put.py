"""Create objects in a bucket with nothing but the right to put: one signed request each, the standard library only.

minio-py would add 13 MB and ten packages to the node's image for the one request that a node makes, and its own
`put_object` drops If-None-Match without a word. The signature is version 4 of Amazon's
(https://docs.aws.amazon.com/AmazonS3/latest/API/sig-v4-header-based-auth.html); that page's example is a test.
"""

import hashlib
import hmac
import http.client
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

from edgedistill.errors import NodeError, StorageError
from edgedistill.storage import checked_key, is_key

TIMEOUT_S = 20.0  # of a connection, and of each read and write
_ADDRESS = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])(?:/(?P<prefix>.*))?")
_KINDS = {"jpg": "image/jpeg", "png": "image/png", "json": "application/json"}


@dataclass(frozen=True)
class Credentials:
    """Who puts. Never shown: not in a repr, a message or a log."""

    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)


@dataclass(frozen=True)
class S3Target:
    """The keys below a prefix of one bucket."""

    endpoint: str  # http(s)://host[:port]
    base: str  # bucket[/prefix]
    credentials: Credentials
    authorities: str | None  # PEM file; None: the system's

    @staticmethod
    def of(address: str, environment: Mapping[str, str], *, prefix: str) -> "S3Target":
        """From s3://bucket[/prefix] and the environment's variables that start with `prefix`.

        Raises:
            NodeError: no address, or a variable is missing.
        """

        def needed(name: str) -> str:
            if not environment.get(prefix + name):
                raise NodeError(f"--feedback {address} needs {prefix}{name} in the environment; set it and start again")
            return environment[prefix + name]

        found = _ADDRESS.fullmatch(address)
        below = (found["prefix"] or "").rstrip("/") if found else ""
        if found is None or (below and not is_key(below)):
            raise NodeError("the address of --feedback is not allowed; expected s3://bucket or s3://bucket/prefix")
        endpoint = needed("ENDPOINT").rstrip("/")
        if not re.fullmatch(r"https?://[^/@\s?#]+", endpoint):
            raise NodeError(f"{prefix}ENDPOINT is no address; expected for example https://s3.example.org")
        credentials = Credentials(needed("REGION"), needed("ACCESS_KEY"), needed("SECRET_KEY"))
        base = "/".join(filter(None, (found["bucket"], below)))
        return S3Target(endpoint, base, credentials, environment.get(prefix + "CA") or None)

    def create(self, key: str, data: bytes) -> None:
        """Create an object; one that is there stays as it is.

        Raises:
            StorageError: the store does not answer, or refuses.
        """
        path = quote(f"/{self.base}/{checked_key(key)}", safe="/-_.~")
        headers = {"If-None-Match": "*", "Content-Type": _KINDS[key.rpartition(".")[2]]}
        headers = signed("PUT", self.endpoint + path, headers, data, self.credentials, datetime.now(UTC))
        try:
            status, code = self._request(path, headers, data)
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or type(error).__name__
            raise StorageError(f"the feedback store {self.endpoint} does not answer: {reason}") from error
        if status not in (200, 204, 412):  # 412: it is there
            raise StorageError(
                f"the feedback store {self.endpoint} refuses {key!r} with {status} {code}; "
                "check the node's credentials and their policy"
            )

    def _request(self, path: str, headers: Mapping[str, str], data: bytes) -> tuple[int, str]:
        """Status, and the error's code if there is one. A redirect is an answer like any other: never followed."""
        parts = urlsplit(self.endpoint)
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=self.authorities)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.netloc, timeout=TIMEOUT_S, context=context
            )
        else:
            connection = http.client.HTTPConnection(parts.netloc, timeout=TIMEOUT_S)
        try:
            connection.request("PUT", path, body=data, headers=dict(headers))
            answer = connection.getresponse()
            found = re.search(rb"<Code>(\w+)</Code>", answer.read(1 << 16))
            return answer.status, found[1].decode() if found else ""
        finally:
            connection.close()


def signed(
    method: str, url: str, headers: Mapping[str, str], body: bytes, credentials: Credentials, now: datetime
) -> dict[str, str]:
    """The headers of a request with its signature; every one of them is signed, and so is the body.

    Args:
        method: PUT, GET.
        url: its path percent-encoded, without a query.
        headers: without Host.
        body: what is sent.
        credentials: who signs.
        now: UTC.
    """
    parts, moment = urlsplit(url), now.strftime("%Y%m%dT%H%M%SZ")
    content = hashlib.sha256(body).hexdigest()
    all_headers = {name.lower(): value.strip() for name, value in headers.items()}
    all_headers |= {"host": parts.netloc, "x-amz-content-sha256": content, "x-amz-date": moment}
    lines = [f"{name}:{all_headers[name]}" for name in sorted(all_headers)]
    names = ";".join(sorted(all_headers))
    request = "\n".join([method, parts.path, "", *lines, "", names, content])
    scope = f"{moment[:8]}/{credentials.region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", moment, scope, hashlib.sha256(request.encode()).hexdigest()])
    key = f"AWS4{credentials.secret_key}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.new(key, text.encode(), "sha256").hexdigest()
    who = f"Credential={credentials.access_key}/{scope},SignedHeaders={names},Signature={signature}"
    return all_headers | {"authorization": f"AWS4-HMAC-SHA256 {who}"}
