"""Ask a node for a real answer, and hold it to what the node says of itself: what `helm test` runs."""

import math
import time
from pathlib import Path

import numpy as np
from PIL import Image

from edge.rollout.pin import pinned
from edgedistill.errors import ConfigError, NodeError
from edgedistill.images import encode_png
from edgedistill.node_client import NodeClient, Options

_OPTIONS = Options(address="--url", certificate="--certificate")
_RETRY_S = 1.0


def ask(url: str, name: str, *, token_file: Path | None, certificate: Path | None, timeout_s: float) -> str:
    """One sentence about a right answer of the release `name`.

    Raises:
        ConfigError: an option cannot be used as given.
        NodeError: no right answer within `timeout_s`.
    """
    token, pem = (_text(path) if path else "" for path in (token_file, certificate))
    tls = pinned(pem) if certificate else None
    node = NodeClient(url, token.strip(), tls=tls, timeout_s=min(10.0, timeout_s), options=_OPTIONS)
    ends = time.monotonic() + timeout_s
    while True:
        try:
            return _checked(node, name)
        except NodeError:  # a node that was just started, or switches just now
            if time.monotonic() + _RETRY_S > ends:
                raise
        time.sleep(_RETRY_S)


def picture() -> bytes:
    """A PNG file of 64 x 64 pixels: three gradients."""
    shades = [Image.linear_gradient("L").rotate(90 * turns).resize((64, 64)) for turns in range(3)]
    return encode_png(np.asarray(Image.merge("RGB", shades)))


def _checked(node: NodeClient, name: str) -> str:
    try:
        before = _active(node, name)
        began = time.perf_counter()
        answer = node.infer(name, picture(), {"top_k": 1}, ("logits", "label", "probability"))
        took_ms = (time.perf_counter() - began) * 1000
        outputs = {one["name"]: one["data"] for one in answer["outputs"]}
        version, digest = int(answer["model_version"]), str(answer["parameters"]["release_digest"])
        logits, label = [float(value) for value in outputs["logits"]], str(outputs["label"][0])
        probability = float(outputs["probability"][0])
        releases = [before, _active(node, name)]  # it may switch in between
        labels = list(node.call(f"/v2/models/{name}")["parameters"]["labels"])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise node.no_node() from error
    if (version, digest) not in releases:
        raise NodeError(f"{node.address}: release {version} answered, which /status does not call active; look there")
    if not logits or not all(math.isfinite(value) for value in (*logits, probability)):
        raise NodeError(f"{node.address}: release {version} gave an answer that is not finite; publish another")
    if len(labels) != len(logits) or labels[logits.index(max(logits))] != label:
        raise NodeError(f"{node.address}: the labels of release {version} do not fit its answer; publish another")
    said = f"{label} ({probability:.0%}), one of {len(labels)} classes"
    return f"release {version} of {name} answered in {took_ms:.0f} ms: {said}"


def _active(node: NodeClient, name: str) -> tuple[int, str]:
    """Version and digest of the release that /status calls active."""
    status = node.call("/status")
    active = status["active"]
    if not active:
        why = status["refused"] or status["reason"] or status["state"]
        raise NodeError(f"{node.address} serves no release: {why}; see: edgedistill fleet status")
    if active["name"] != name:
        raise NodeError(f"{node.address} serves {active['name']!r}, expected {name!r}; give --name")
    return int(active["version"]), str(active["digest"])


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}; give a file that is there") from error
