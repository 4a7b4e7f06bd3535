"""A tiny real student, a real signed repository, a real node process."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
import pytest
from numpy.typing import NDArray
from openvino import opset13 as ops

from edgedistill import bundle, signing
from edgedistill.images import encode_png
from edgedistill.inference import Student
from edgedistill.storage import ObjectStore, open_store
from tests.edge.proof import SEED

SIZE, CLASSES = 8, 4


def tiny_model(seed: int) -> ov.Model:
    """Mean over the pixels, then a random linear layer: uint8 (B, 8, 8, 3) -> (B, 4)."""
    weights = np.random.default_rng(seed).normal(0, 1, (3, CLASSES)).astype(np.float32)
    image = ops.parameter([-1, SIZE, SIZE, 3], np.uint8, name="image")
    mean = ops.reduce_mean(ops.convert(image, np.float32), ops.constant([1, 2]), False)
    scaled = ops.multiply(mean, ops.constant(np.float32(1 / 32)))
    logits = ops.matmul(scaled, ops.constant(weights), False, False)
    model = ov.Model([ops.result(logits, name="logits")], [image], "tiny")
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model


def pictures(count: int, seed: int = 7) -> NDArray[np.uint8]:
    """(count, 8, 8, 3) uint8, each of a colour of its own."""
    colours = np.random.default_rng(seed).integers(0, 256, (count, 1, 1, 3), dtype=np.uint8)
    return np.repeat(np.repeat(colours, SIZE, axis=1), SIZE, axis=2)


def class_counts(model: ov.Model) -> list[int]:
    """(K,) of 1,000 pictures, as evaluate_student counts them on a test split."""
    return np.bincount(Student(model).logits(pictures(1000, seed=11)).argmax(axis=1), minlength=CLASSES).tolist()


@dataclass
class Publisher:
    """Makes and publishes releases of one name."""

    folder: Path
    store: ObjectStore
    keys: Path

    @property
    def releases(self) -> Path:
        return Path(self.store.uri) / "releases"

    @property
    def root(self) -> Path:
        return self.releases / "metadata" / "1.root.json"

    def publish(self, *, seed: int = 0, change: Callable[[list[tuple[bytes, list[float]]]], None] | None = None) -> int:
        """Publish the next version; `change` may spoil the golden answers before they are signed."""
        version = signing.next_version(self.store, "tiny")
        folder = self.folder / f"bundle-{version}"
        folder.mkdir()
        model = tiny_model(seed)
        ov.save_model(model, folder / "m.xml", compress_to_fp16=False)
        xml, weights = (folder / "m.xml").read_bytes(), (folder / "m.bin").read_bytes()
        (folder / "m.xml").unlink(), (folder / "m.bin").unlink()
        answers = Student(model).logits(pictures(3))
        golden = [(encode_png(p), [float(x) for x in a]) for p, a in zip(pictures(3), answers, strict=True)]
        if change:
            change(golden)
        bundle.write_bundle(
            folder,
            name="tiny",
            version=version,
            created="2026-01-01T00:00:00Z",
            model_xml=xml,
            model_bin=weights,
            labels=[f"class-{i}" for i in range(CLASSES)],
            size=SIZE,
            golden=golden,
            class_counts=class_counts(model),
        )
        return signing.publish(self.store, self.keys, folder)


def new_publisher(folder: Path) -> Publisher:
    """Make keys and an empty repository."""
    store = open_store(folder / "store")
    signing.init_repository(store, folder / "keys")
    return Publisher(folder, store, folder / "keys")


@pytest.fixture
def publisher(tmp_path: Path) -> Publisher:
    """A repository with no release yet."""
    return new_publisher(tmp_path)


@dataclass
class NodeProcess:
    """A running `python -m edge.node`."""

    arguments: list[str]
    environment: dict[str, str] = field(default_factory=dict)
    module: str = "edge.node"  # or a driver in front of it, below tests/edge/drivers/
    wrapper: tuple[str, ...] = ()  # a command that runs it
    process: "subprocess.Popen[str] | None" = None
    http: str = ""
    grpc: str = ""

    def start(self) -> "NodeProcess":
        command = [*self.wrapper, sys.executable, "-m", self.module, *self.arguments]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | self.environment
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.fullmatch(r"serving on https?://(\S+) grpcs?://(\S+)\n", line)
        if not found:
            raise AssertionError(f"the node said {line!r} and {self.kill()}")
        self.http, self.grpc = found[1], found[2]
        return self

    def status(self) -> dict[str, Any]:
        with urllib.request.urlopen(f"http://{self.http}/status", timeout=10) as answer:
            document: dict[str, Any] = json.load(answer)
            return document

    def wait(self, is_there: Callable[[dict[str, Any]], bool], timeout_s: float = 60) -> dict[str, Any]:
        """Wait for a status."""
        deadline = time.monotonic() + timeout_s
        status: dict[str, Any] = {}
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib.error.URLError, ConnectionError):
                status = self.status()
                if is_there(status):
                    return status
            time.sleep(0.1)
        raise AssertionError(f"not reached in {timeout_s} s: {status}")

    def wait_version(self, version: int) -> dict[str, Any]:
        return self.wait(lambda s: bool(s["active"]) and s["active"]["version"] == version)

    def kill(self, number: signal.Signals = signal.SIGKILL) -> str:
        """End it; gives what it wrote to stderr."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.communicate(timeout=20)[1]


def until(condition: Callable[[], object]) -> None:
    """Wait for what another thread brings about; 20 s at most."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def node_arguments(publisher: Publisher, state: Path) -> list[str]:
    """What every node is told: where the releases are, whom to trust, any free ports."""
    return [
        *("--releases", str(publisher.releases), "--root", str(publisher.root)),
        *("--state", str(state), "--name", "tiny", "--http-port", "0", "--grpc-port", "0"),
        *("--poll-s", "0.2", "--node-name", "edge-test"),
    ]


StartNode = Callable[..., NodeProcess]


@pytest.fixture
def start_node(tmp_path: Path, publisher: Publisher) -> Iterator[StartNode]:
    """Start nodes on the publisher's repository; all are ended."""
    nodes: list[NodeProcess] = []

    def start(
        *extra: str,
        environment: dict[str, str] | None = None,
        state: str = "state",
        module: str = "edge.node",
        wrapper: tuple[str, ...] = (),
    ) -> NodeProcess:
        arguments = [*node_arguments(publisher, tmp_path / state), *extra]
        nodes.append(NodeProcess(arguments, environment or {}, module, wrapper))
        return nodes[-1].start()

    yield start
    for node in nodes:
        if node.process is not None:
            node.kill()


@pytest.fixture
def tell(record_property: Callable[[str, object], None]) -> Callable[[str, str], None]:
    """Say what was counted: tell("P1", "40 kills, 40 served old or new"). Shown after the last test."""
    return lambda promise, sentence: record_property("proof", f"{promise}: {sentence} (seed {SEED})")
