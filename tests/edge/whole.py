"""What P1 and P2 check: a state folder names complete signed releases only, and its node answers as they do."""

import contextlib
import json
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edge.node.state import Release
from edge.node.trust import verify_offline
from edgedistill.bundle import MANIFEST, read_bundle
from edgedistill.errors import RefusedRelease
from edgedistill.inference import Student
from tests.edge.conftest import Publisher, pictures, tiny_model


@dataclass(frozen=True)
class Signed:
    """What the publisher signed: version -> digest and golden answers. Version N was made with seed N."""

    root: bytes
    digests: Mapping[int, str]
    answers: Mapping[int, NDArray[np.float32]]  # (3, K) logits of pictures(3)

    @staticmethod
    def of(publisher: Publisher, versions: int) -> "Signed":
        """Publish versions 1..N."""
        numbers = [publisher.publish(seed=seed) for seed in range(1, versions + 1)]
        bundles = {n: read_bundle(publisher.folder / f"bundle-{n}").digest for n in numbers}
        answers = {n: Student(tiny_model(n)).logits(pictures(3)) for n in numbers}
        return Signed(publisher.root.read_bytes(), bundles, answers)

    def violations(self, state: Path, allowed: set[int]) -> list[str]:
        """What is wrong with a state folder that no process uses; version 0 in `allowed`: it may be empty."""
        try:
            pointer = json.loads((state / "pointer.json").read_bytes())
        except FileNotFoundError:
            return [] if 0 in allowed else ["the pointer is gone"]
        except ValueError as error:
            return [f"the pointer is torn: {error}"]
        active, previous = (Release(**pointer[key]) if pointer[key] else None for key in ("active", "previous"))
        if active is None:
            return [] if 0 in allowed else ["no release is active"]
        found = (
            [f"release {active.version} is active, expected one of {allowed}"] if active.version not in allowed else []
        )
        found += [
            f"release {one.version}: {wrong}" for one in (active, previous) if one for wrong in self._of(state, one)
        ]
        metadata = state / "metadata" / str(pointer["metadata"])
        try:
            verify_offline(metadata, self.root, (state / "releases" / active.digest / MANIFEST).read_bytes(), active)
        except (RefusedRelease, OSError) as error:
            found.append(f"nothing vouches for release {active.version}: {error}")
        return found

    def _of(self, state: Path, release: Release) -> list[str]:
        if release.digest != self.digests[release.version]:
            return ["its digest is not the signed one"]
        try:
            manifest = read_bundle(state / "releases" / release.digest)
        except RefusedRelease as error:
            return [str(error)]
        return [] if manifest.digest == release.digest else ["its manifest is another release's"]

    def answers_as(self, version: int, logits: NDArray[np.float32]) -> bool:
        """Whether these are the golden answers of a version, and of no other."""
        close = [n for n, expected in self.answers.items() if np.allclose(logits, expected, rtol=1e-5, atol=1e-5)]
        return close == [version]


def ask(address: str) -> tuple[int, NDArray[np.float32]]:
    """The version that answers at host:port over REST, and its (3, K) logits of the golden pictures."""
    images = pictures(3)
    tensor = {"name": "image", "datatype": "UINT8", "shape": list(images.shape), "data": images.ravel().tolist()}
    body = json.dumps({"inputs": [tensor], "outputs": [{"name": "logits"}]}).encode()
    request = urllib.request.Request(
        f"http://{address}/v2/models/tiny/infer", body, headers={"Content-Type": "application/json"}
    )
    for _ in range(500):
        with contextlib.suppress(urllib.error.URLError), urllib.request.urlopen(request, timeout=20) as response:
            answer = json.load(response)
            break
        time.sleep(0.02)
    output = answer["outputs"][0]
    return int(answer["model_version"]), np.asarray(output["data"], np.float32).reshape(output["shape"])
