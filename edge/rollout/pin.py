"""Whom to trust behind the nodes' TLS: the certificate in one file, and nobody else."""

import ssl
import time
from pathlib import Path

from edgedistill.errors import ConfigError

OVERLAP_S = 600.0  # a new certificate reaches every kubelet within ~90 s, and one that was cut off on its return
_END = "-----END CERTIFICATE-----"


def pinned(pem: str) -> ssl.SSLContext:
    """Trusts the certificate at the head of `pem`: a node's own, or else the authorities in it. Host names are not
    checked, as pods are asked by address.

    Behind a node's own certificate its chain may follow. That is not trusted: without host names it would admit
    everybody whom the same authority ever signed.

    Raises:
        ConfigError: there is no certificate in it.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # a certificate that is no authority's is trusted as it is
    first, end, rest = pem.partition(_END)
    try:
        context.load_verify_locations(cadata=first + end + "\n")
        if context.cert_store_stats()["x509_ca"] and _END in rest:
            context.load_verify_locations(cadata=rest)
    except (ssl.SSLError, ValueError) as error:
        raise ConfigError(f"there is no PEM certificate: {error}; give the nodes' tls.crt") from error
    return context


class Pin:
    """The nodes' certificate, read again when its file changes. The one before stays trusted a while beside it.

    Raises:
        ConfigError: the file cannot be read at the start, or holds no certificate.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pem = self._read()
        self.contexts: list[ssl.SSLContext] = [pinned(self._pem)]  # the newest first
        self._since = time.monotonic()

    def look(self) -> bool:
        """Read the file again; True when `contexts` changed. A file that is damaged or gone changes nothing."""
        is_over = len(self.contexts) > 1 and time.monotonic() - self._since > OVERLAP_S
        if is_over:
            del self.contexts[1:]
        try:
            pem = self._read()
            if pem == self._pem:
                return is_over
            newest = pinned(pem)
        except ConfigError:
            return is_over
        self._pem, self._since = pem, time.monotonic()
        self.contexts = [newest, self.contexts[0]]
        return True

    def _read(self) -> str:
        try:
            return self._path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{self._path} cannot be read: {error}; give the nodes' tls.crt") from error
