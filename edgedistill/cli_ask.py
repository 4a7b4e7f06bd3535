"""`edgedistill ask IMAGE`: what a node says a picture shows."""

import json
import ssl
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import click
from rich.console import Console
from rich.table import Table

from edgedistill.errors import ConfigError, NodeError

TIMEOUT_S = 30
_HEADER = "Inference-Header-Content-Length"


@click.command()
@click.argument("image", type=click.Path(path_type=Path))
@click.option("--node", default="http://127.0.0.1:8080", show_default=True, help="address of the node")
@click.option("--top", default=5, show_default=True, type=click.IntRange(1), help="labels to show")
@click.option("--token-file", type=click.Path(path_type=Path), help="file with the node's token")
@click.option("--ca", type=click.Path(path_type=Path), help="PEM certificate that signed the node's, or is it")
@click.option("--json", "as_json", is_flag=True, help="one JSON object instead of a table")
def ask(image: Path, node: str, top: int, token_file: Path | None, ca: Path | None, as_json: bool) -> None:
    """Ask a node what IMAGE (a JPEG or PNG) shows."""
    picture, token = _read(image), _read(token_file).decode(errors="replace").strip() if token_file else ""
    said = _Node(node, token, ca).ask(picture, top)
    if as_json:
        click.echo(json.dumps(said))
        return
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("label")
    table.add_column("probability", justify="right")
    for one in said["answers"]:
        table.add_row(one["label"], f"{one['probability']:.1%}")
    console = Console()
    console.print(table, markup=False)
    console.print(f"release {said['release']} of {said['name']} ({said['digest'][:12]})", style="dim", markup=False)


class _Node:
    """A node's REST port."""

    def __init__(self, address: str, token: str, ca: Path | None) -> None:
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ConfigError(f"--node is {address!r}, expected an address like http://127.0.0.1:8080")
        if token and parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
            raise ConfigError(f"the token would go to {address} in the clear; give an https address")
        self._address = address.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            self._tls = ssl.create_default_context(cafile=str(ca) if ca else None)
        except OSError as error:
            raise ConfigError(f"--ca {ca} holds no certificate: {error.strerror or error}; give a PEM file") from error

    def ask(self, picture: bytes, top: int) -> dict[str, Any]:
        """The most probable labels of one picture, and who said so. Raises NodeError."""
        try:
            return self._ask(picture, top)
        except (KeyError, TypeError, ValueError) as error:
            raise NodeError(f"{self._address} is no node: it does not answer as one; give --node URL") from error

    def _ask(self, picture: bytes, top: int) -> dict[str, Any]:
        index = self._call("/v2/models")
        if not index:
            raise NodeError(f"{self._address} serves no release yet; look at {self._address}/status")
        size = {"binary_data_size": len(picture) + 4}
        image = {"name": "image", "datatype": "BYTES", "shape": [1], "parameters": size}
        text = json.dumps({"inputs": [image], "parameters": {"top_k": top}}).encode()
        body = text + len(picture).to_bytes(4, "little") + picture
        answer = self._call(f"/v2/models/{quote(index[0]['name'], safe='')}/infer", body, {_HEADER: str(len(text))})
        labels, probabilities = (one["data"] for one in answer["outputs"])
        return {
            "name": answer["model_name"],
            "release": int(answer["model_version"]),
            "digest": answer["parameters"]["release_digest"],
            "answers": [
                {"label": label, "probability": value} for label, value in zip(labels, probabilities, strict=True)
            ],
        }

    def _call(self, path: str, body: bytes | None = None, headers: dict[str, str] | None = None) -> Any:
        request = urllib.request.Request(self._address + path, body, self._headers | (headers or {}))
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=self._tls) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                raise NodeError(f"{self._address}: {_reason(error)}") from error
        except (OSError, HTTPException) as error:
            told = getattr(error, "reason", None) or error
            hint = "; give --ca FILE" if "CERTIFICATE" in str(told) else "; start one, or give --node URL"
            raise NodeError(f"{self._address} does not answer: {told}{hint}") from error


def _reason(error: urllib.error.HTTPError) -> str:
    """What the node says is wrong."""
    if error.code == 401:
        return "it wants its token; give --token-file FILE"
    try:
        return str(json.load(error)["error"])
    except (ValueError, KeyError, TypeError):
        return f"it answered {error.code}; is this a node's address?"


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give a file that is there") from error
