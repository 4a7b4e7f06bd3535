"""A node's REST port, for whoever asks it one picture: `edgedistill ask`, and the chart's test."""

import json
import ssl
import urllib.error
import urllib.request
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import quote, urlsplit

from edgedistill.errors import ConfigError, NodeError

_HEADER = "Inference-Header-Content-Length"
_BYTES = 16 << 20  # of an answer


@dataclass(frozen=True)
class Options:
    """What the options of the calling command are named, for the next command that an error names."""

    address: str = "--node"
    certificate: str = "--ca"
    token: str = "--token-file"


class NodeClient:
    """Asks one node.

    Args:
        address: http(s)://host:port.
        token: empty: none is sent.
        tls: whom to trust behind https; None: the system's certificates.
        timeout_s: of one request.

    Raises:
        ConfigError: the address is none.
        NodeError (all methods): the node does not answer, or not as a node.
    """

    def __init__(
        self,
        address: str,
        token: str = "",
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 30,
        options: Options | None = None,
    ) -> None:
        self.options = options or Options()
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"{self.options.address} is {address!r}, expected an address like http://127.0.0.1:8080")
        self.address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._timeout_s = timeout_s
        # Neither a proxy of the environment nor a redirect: either would carry the token to somebody else.
        secure = urllib.request.HTTPSHandler(context=tls)
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirect, secure)

    def models(self) -> list[dict[str, Any]]:
        """The release that the node serves, as a list of one; empty: none yet."""
        index = self.call("/v2/models")
        return index if isinstance(index, list) else []

    def infer(self, name: str, picture: bytes, parameters: dict[str, Any], outputs: tuple[str, ...] = ()) -> Any:
        """One picture (a JPEG or PNG file) to the model `name`; the answer's JSON."""
        size = {"binary_data_size": len(picture) + 4}
        image = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": size}
        asked: dict[str, Any] = {"inputs": [image], "parameters": parameters}
        if outputs:
            asked["outputs"] = [{"name": one} for one in outputs]
        text = json.dumps(asked).encode()
        body = text + len(picture).to_bytes(4, "little") + picture
        return self.call(f"/v2/models/{quote(name, safe='')}/infer", body, {_HEADER: str(len(text))})

    def call(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        """One request; the answer's JSON."""
        request = urllib.request.Request(self.address + path, body, self._headers | (headers or {}))
        try:
            with self._opener.open(request, timeout=self._timeout_s) as answer:
                return json.loads(answer.read(_BYTES))
        except urllib.error.HTTPError as error:
            with error:
                raise NodeError(f"{self.address}: {self._reason(error)}") from error
        except (OSError, HTTPException) as error:
            told = getattr(error, "reason", None) or error
            hint = (
                f"give {self.options.certificate} FILE"
                if "CERTIFICATE" in str(told)
                else (f"start one, or give {self.options.address} URL")
            )
            raise NodeError(f"{self.address} does not answer: {told}; {hint}") from error
        except (ValueError, RecursionError) as error:
            raise self.no_node() from error

    def no_node(self) -> NodeError:
        """The error for an answer that no node would give."""
        return NodeError(f"{self.address} is no node: it does not answer as one; give {self.options.address} URL")

    def _reason(self, error: urllib.error.HTTPError) -> str:
        """What the node says is wrong."""
        if error.code == 401:
            return f"it wants its token; give {self.options.token} FILE"
        try:
            return str(json.loads(error.read(_BYTES))["error"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return f"it answered {error.code}; is this a node's address?"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """A redirect is an error: a node sends nobody elsewhere."""

    def redirect_request(self, *_: Any) -> None:
        """None: it is not followed."""
