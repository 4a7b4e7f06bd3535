"""Who may ask: this machine, or whoever has the token, over TLS.

A node listens on loopback unless it is told otherwise. Elsewhere it wants a token and a certificate, or the operator's
word (`--trust-network`) that a network policy, a mesh or a firewall in front of it does their work. Token and
certificate are read again when their files change. Health, /status and /metrics need no token: kubelets, scrapers and
the rollout controller ask for them.
"""

import argparse
import asyncio
import hmac
import ipaddress
import logging
import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgedistill.errors import NodeError

LEAST_TOKEN = 16  # characters
OPEN_PATHS = ("/status", "/metrics", "/v2/health/live", "/v2/health/ready")
OPEN_CALLS = ("ServerLive", "ServerReady", "ModelReady")
_MODEL_READY = re.compile("/v2/models/[^/]+(/versions/[^/]+)?/ready")
SCHEME = "bearer "
NO_TOKEN = "no token, or not this node's; send Authorization: Bearer TOKEN"
_log = logging.getLogger("edge.node")


def add_options(parser: argparse.ArgumentParser) -> None:
    """The node's options of access."""
    add = parser.add_argument
    add("--listen", default="127.0.0.1", help="address to listen on; beyond loopback, a token and TLS are needed")
    add("--token-file", type=Path, help=f"file with the token that clients must send, {LEAST_TOKEN} characters or more")
    add("--tls-cert", type=Path, help="PEM certificate chain of both ports")
    add("--tls-key", type=Path, help="its PEM private key")
    add("--trust-network", action="store_true", help="beyond loopback without token and TLS: the network guards it")


def access_of(options: argparse.Namespace) -> "Access":
    """The access that the options say.

    Raises:
        NodeError: it would be open to a network, or a file cannot be used.
    """
    is_guarded = options.token_file is not None and options.tls_cert is not None
    if not (is_loopback(options.listen) or is_guarded or options.trust_network):
        missing = "a token" if options.token_file is None else "TLS"
        raise NodeError(
            f"listening on {options.listen} without {missing} would let everybody there ask; give --token-file,"
            " --tls-cert and --tls-key, or --trust-network if the network in front guards it"
        )
    if (options.tls_cert is None) != (options.tls_key is None):
        given, other = ("--tls-cert", "--tls-key") if options.tls_key is None else ("--tls-key", "--tls-cert")
        raise NodeError(f"{given} is given without {other}; give both")
    access = Access(options.token_file, options.tls_cert, options.tls_key)
    access.load()
    return access


def address(host: str, port: int) -> str:
    """host:port, as gRPC and URLs write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass
class Access:
    """The token and the certificate as they are now."""

    token_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    tls: ssl.SSLContext | None = None
    pem: tuple[bytes, bytes] = (b"", b"")  # key and chain, as gRPC wants them
    _token: bytes = b""
    _seen: dict[Path, tuple[int, int, int]] = field(default_factory=dict)  # inode, size, time of the loaded files

    def load(self) -> None:
        """Read the files. Raises NodeError, and nothing has changed then."""
        seen = {path: _mark(path) for path in (self.token_file, self.cert_file, self.key_file) if path is not None}
        token = _read_token(self.token_file) if self.token_file else b""
        if self.cert_file and self.key_file:
            self.tls, self.pem = _load_tls(self.cert_file, self.key_file, self.tls)
        self._token, self._seen = token, seen

    def refresh(self) -> None:
        """Read the files again if one has changed; what cannot be used is logged, and the old goes on."""
        try:
            changed = {path: mark for path in self._seen if (mark := _mark(path)) != self._seen[path]}
            if changed:
                self.load()
                _log.info("access: %s was read again", ", ".join(sorted(path.name for path in changed)))
        except NodeError as error:
            _log.warning("access: %s; what was read before goes on", error)

    async def watch(self, pause_s: float) -> None:
        """Refresh again and again, until it is cancelled."""
        while self._seen:
            await asyncio.sleep(pause_s)
            self.refresh()

    def allows(self, path: str, headers: Mapping[str, str]) -> bool:
        """Whether an HTTP request may pass; `headers` by lower-case name."""
        return path in OPEN_PATHS or bool(_MODEL_READY.fullmatch(path)) or self._is_known(headers.get("authorization"))

    def allows_call(self, method: str, metadata: Mapping[str, str]) -> bool:
        """Whether a gRPC call may pass; `method` is /package.Service/Name."""
        return method.rpartition("/")[2] in OPEN_CALLS or self._is_known(metadata.get("authorization"))

    @property
    def needs_token(self) -> bool:
        """Whether anything is refused."""
        return bool(self._token)

    def _is_known(self, given: str | None) -> bool:
        if not self._token:
            return True
        if given is None or given[: len(SCHEME)].lower() != SCHEME:
            return False
        # In constant time: how long a guess took tells nothing of the token.
        return hmac.compare_digest(given[len(SCHEME) :].strip().encode(errors="replace"), self._token)


def _mark(path: Path) -> tuple[int, int, int]:
    try:
        seen = path.stat()
    except OSError as error:
        raise NodeError(f"{path} cannot be read: {error.strerror}; give a file that this user may read") from error
    return seen.st_ino, seen.st_size, seen.st_mtime_ns


def _read_token(path: Path) -> bytes:
    try:
        token = path.read_bytes().strip()
    except OSError as error:
        raise NodeError(f"{path} cannot be read: {error.strerror}; give a file that this user may read") from error
    if len(token) < LEAST_TOKEN or not all(0x21 <= byte <= 0x7E for byte in token):
        raise NodeError(
            f"{path} holds no token of at least {LEAST_TOKEN} visible ASCII characters;"
            f" make one: openssl rand -hex 32 > {path}"
        )
    return token


def _load_tls(cert: Path, key: Path, into: ssl.SSLContext | None) -> tuple[ssl.SSLContext, tuple[bytes, bytes]]:
    """Check the pair in a context of its own, then give it to the one that connections are made from."""
    try:
        fresh = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        fresh.minimum_version = ssl.TLSVersion.TLSv1_2
        fresh.load_cert_chain(cert, key, password=_no_password)
        if into is not None:
            into.load_cert_chain(cert, key, password=_no_password)
        return into or fresh, (key.read_bytes(), cert.read_bytes())
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        told = getattr(error, "strerror", None) or str(error)
        raise NodeError(
            f"{cert} and {key} are no certificate with its key: {told}; give PEM files without a passphrase"
        ) from error


def _no_password() -> str:
    raise ValueError("the key has a passphrase")
