"""What nodes send: pairs of a picture and a document, and requests for a run, as edge.node.forward writes them."""

import json
from pathlib import Path

from edgedistill.storage import digest
from tests.pipeline.pictures import write


def sent(store: Path, data: bytes, *, node: str = "node-1", release: str = "demo", kind: str = "png") -> str:
    """Put a pair into feedback/; gives the picture's key."""
    key = f"feedback/{node}/20260101/{digest(data)}.{kind}"
    write(store / key, data)
    write((store / key).with_suffix(".json"), json.dumps({"release": {"name": release, "version": 1}}).encode())
    return key


def asked(store: Path, *, node: str = "node-1", release: str = "demo") -> None:
    """Ask for a run."""
    document = {"reason": "drift", "release": {"name": release, "version": 1}}
    write(store / f"feedback/{node}/20260101/run-request.json", json.dumps(document).encode())
