"""`edgedistill ask IMAGE`: what a node says a picture shows."""

import json
import ssl
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import click
from rich.console import Console
from rich.table import Table

from edgedistill.errors import ConfigError, NodeError
from edgedistill.node_client import NodeClient


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
    said = _ask(_client(node, token, ca), picture, top)
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


def _client(address: str, token: str, ca: Path | None) -> NodeClient:
    parts = urlsplit(address)
    if token and parts.scheme == "http" and parts.hostname not in ("127.0.0.1", "localhost", "::1"):
        raise ConfigError(f"the token would go to {address} in the clear; give an https address")
    try:
        tls = ssl.create_default_context(cafile=str(ca) if ca else None)
    except OSError as error:
        raise ConfigError(f"--ca {ca} holds no certificate: {error.strerror or error}; give a PEM file") from error
    return NodeClient(address, token, tls=tls)


def _ask(node: NodeClient, picture: bytes, top: int) -> dict[str, Any]:
    """The most probable labels of one picture, and who said so."""
    try:
        index = node.models()
        if not index:
            raise NodeError(f"{node.address} serves no release yet; look at {node.address}/status")
        answer = node.infer(index[0]["name"], picture, {"top_k": top})
        labels, probabilities = (one["data"] for one in answer["outputs"])
        return {
            "name": answer["model_name"],
            "release": int(answer["model_version"]),
            "digest": answer["parameters"]["release_digest"],
            "answers": [
                {"label": label, "probability": value} for label, value in zip(labels, probabilities, strict=True)
            ],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise node.no_node() from error


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}; give a file that is there") from error
