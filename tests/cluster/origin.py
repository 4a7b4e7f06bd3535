"""The place where releases are kept, as a web server in the cloud's network, and what is published there."""

import functools
import itertools
import subprocess
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, BinaryIO

import openvino as ov

from edgedistill import signing
from edgedistill.bundle import MANIFEST, Manifest, write_bundle
from edgedistill.storage import ObjectStore, open_store
from tests.cluster.testbed.images import REPOSITORY
from tests.cluster.testbed.network import CLOUD_ADDRESS, NODES
from tests.edge import bad_models
from tests.edge.conftest import Publisher
from tests.pipeline.conftest import Home


@dataclass
class Releases:
    """An embedded home with a few releases, each of a `make pipeline-run` of its own."""

    home: Path
    name: str = "demo"

    @property
    def store(self) -> ObjectStore:
        return open_store(self.home / "store")

    @property
    def folder(self) -> Path:
        """What a node is told as --releases."""
        return self.home / "store" / "releases"

    @property
    def root(self) -> Path:
        return self.folder / "metadata" / "1.root.json"

    @property
    def keys(self) -> Path:
        return self.home / "keys"

    def files(self, version: int) -> dict[str, bytes]:
        """The files of a release, by their names in the bundle."""
        prefix = f"releases/targets/{self.name}/{version}/"
        found = {}
        for key in self.store.list(prefix):
            folder, _, name = key.removeprefix(prefix).rpartition("/")
            found[f"{folder}/{name.partition('.')[2]}".lstrip("/")] = self.store.get(key)
        return found

    def make(self, seed: int) -> dict[str, Any]:
        """Run the pipeline with another seed and give its record."""
        arguments = f"ARGS=--home {self.home} --set distill.seed={seed}"
        command = ["make", "--no-print-directory", "pipeline-run", "PRESET=tiny", arguments]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        return Home(self.home).record()


class Origin(ThreadingHTTPServer):
    """Serves a folder. `sent` counts the bytes of bodies by node; a pod's address tells its node."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.sent: Counter[str] = Counter()
        handler = functools.partial(_Handler, directory=str(folder))
        super().__init__((CLOUD_ADDRESS, 0), handler)
        threading.Thread(target=self.serve_forever, args=[0.1], daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://{CLOUD_ADDRESS}:{self.server_address[1]}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client whose link was cut is what these tests are about."""


class _Handler(SimpleHTTPRequestHandler):
    server: Origin

    def copyfile(self, source: Any, outputfile: BinaryIO) -> None:  # type: ignore[override]
        data = source.read()
        outputfile.write(data)
        address = str(self.client_address[0])
        node = next((one.name for one in NODES if address.startswith(one.pods.removesuffix("0/24"))), address)
        self.server.sent[node] += len(data)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


@dataclass
class Press:
    """Signs and publishes further releases of the fleet's name, with the pipeline's keys."""

    releases: Releases
    folder: Path
    _numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def again(self, *, is_wrong: bool = False) -> int:
        """The student of one of the pipeline's releases under a new number.

        Args:
            is_wrong: its golden answers are not what its model says.
        """
        files = self.releases.files(1 + next(self._numbers) % 3)
        manifest = Manifest.parse(files[MANIFEST])
        version = signing.next_version(self.releases.store, self.releases.name)
        folder = self.folder / f"again-{version}"
        folder.mkdir()
        sign = -1 if is_wrong else 1
        write_bundle(
            folder,
            name=self.releases.name,
            version=version,
            created="2026-01-01T00:00:00Z",
            model_xml=files["model.xml"],
            model_bin=files["model.bin"],
            labels=files["labels.txt"].decode().splitlines(),
            size=manifest.size,
            golden=[(files[one.file], [sign * value for value in one.logits]) for one in manifest.golden],
            class_counts=manifest.class_counts,
        )
        return signing.publish(self.releases.store, self.releases.keys, folder)

    def model(self, model: ov.Model, answers: Sequence[Sequence[float]] | None = None) -> int:
        """A model of its own; `answers` are its golden ones, its own by default."""
        publisher = Publisher(self.folder, self.releases.store, self.releases.keys)
        return bad_models.publish(publisher, model, answers, name=self.releases.name)

    def picture(self) -> bytes:
        """One of the golden pictures."""
        return next(data for name, data in self.releases.files(1).items() if name.endswith(".png"))

    def target_file(self, version: int, name: str) -> Path:
        """Where the origin holds a file of a release."""
        folder = self.releases.folder / "targets" / self.releases.name / str(version)
        return next(folder.glob(f"*.{name}"))
