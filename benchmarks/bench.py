"""What a run of the node's figures needs: a student, signed releases, the node and its rivals in processes."""

import contextlib
import json
import re
import statistics
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.clients import HttpClient
from benchmarks.student import CLASSES, SIZE
from edgedistill import bundle, signing
from edgedistill.images import encode_png
from edgedistill.inference import Student
from edgedistill.storage import open_store

NAME = "bench"
PICTURES = np.random.default_rng(2).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)


class InProcess:
    """benchmarks.in_process, asked over its pipe."""

    def __init__(self, model: Path, ends: contextlib.ExitStack) -> None:
        command = [sys.executable, "-m", "benchmarks.in_process", str(model)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        ends.callback(self._process.kill)
        self.ask("latency", count=50)

    def ask(self, what: str, **options: object) -> Any:
        """One of its measures."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps({"do": what, **options}) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())


@dataclass
class Node:
    """A running node."""

    process: "subprocess.Popen[str]"
    http: str
    grpc: str

    def resident_mb(self) -> float:
        """Of the serving process."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024

    def wait_settled(self) -> None:
        """Until probation is over: starts that end in it would be held against the release."""
        while True:
            with urllib.request.urlopen(f"http://{self.http}/status", timeout=10) as answer:
                if json.load(answer)["state"] == "serving":
                    return
            time.sleep(0.5)

    def wait_version(self, version: int) -> None:
        """Until its answers are of this release."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(OSError, StopIteration, ValueError, IndexError):
                client = HttpClient(self.http, NAME, PICTURES)
                if client.ask() == 200 and client.release() == str(version):
                    return
            time.sleep(0.02)
        raise SystemExit(f"the node does not serve release {version}")


class Bench:
    """Student, releases and processes of one run."""

    def __init__(self, folder: Path, ends: contextlib.ExitStack, seconds: float) -> None:
        self.folder, self.ends, self.seconds = folder, ends, seconds
        subprocess.run([sys.executable, "-W", "ignore", "-m", "benchmarks.student", str(folder)], check=True)
        self.model = folder / "model.xml"
        self._store = open_store(folder / "store")
        signing.init_repository(self._store, folder / "keys")
        self.wanted = folder / "wanted"
        self.wanted.write_text(f"{self.publish()}\n")
        self.in_process = InProcess(self.model, ends)
        self.node = self.start_node()
        self.node.wait_version(1)
        self.ms = statistics.median(self.in_process.ask("latency", count=200))

    def publish(self) -> int:
        """The next release, of the same student."""
        version = signing.next_version(self._store, NAME)
        folder = self.folder / f"bundle-{version}"
        folder.mkdir()
        logits = Student.read(self.model).logits(PICTURES)[0]
        bundle.write_bundle(
            folder,
            name=NAME,
            version=version,
            created="2026-01-01T00:00:00Z",
            model_xml=self.model.read_bytes(),
            model_bin=self.model.with_suffix(".bin").read_bytes(),
            labels=[f"class-{i}" for i in range(CLASSES)],
            size=SIZE,
            golden=[(encode_png(PICTURES[0]), [float(x) for x in logits])] * 2,
        )
        return signing.publish(self._store, self.folder / "keys", folder)

    def start_node(self) -> Node:
        """The node's process; it is ended with the run."""
        releases = self.folder / "store" / "releases"
        command = [
            *(sys.executable, "-m", "edge.node", "--releases", str(releases), "--name", NAME),
            *("--root", str(releases / "metadata" / "1.root.json"), "--state", str(self.folder / "state")),
            *("--version-file", str(self.wanted), "--poll-s", "0.5", "--http-port", "0", "--grpc-port", "0"),
        ]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self.ends.callback(process.kill)
        assert process.stdout is not None
        found = re.fullmatch(r"serving on http://(\S+) grpc://(\S+)\n", process.stdout.readline())
        assert found is not None, "the node did not start"
        return Node(process, found[1], found[2])

    def clients(self, count: int, data: np.ndarray | bytes = PICTURES) -> list[HttpClient]:
        """HTTP clients of the node."""
        return [HttpClient(self.node.http, NAME, data) for _ in range(count)]
