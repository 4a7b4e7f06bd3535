"""Where releases are kept and nodes read them, MinIO on the testbed, and what is published there."""

import functools
import io
import itertools
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Protocol

import openvino as ov

from edgedistill import signing
from edgedistill.bundle import MANIFEST, Manifest, write_bundle
from edgedistill.storage import ObjectStore, open_store
from tests.cluster.testbed.images import REPOSITORY
from tests.cluster.testbed.minio import BUCKET, SEEDS, ReleaseStore
from tests.edge import bad_models
from tests.edge.conftest import Publisher


@dataclass
class Releases:
    """A repository with three releases, each of a `make pipeline-run` of its own.

    Args:
        home: of the runs; holds the signing keys.
        store: where they were published.
        name: of the releases.
    """

    home: Path
    store: ObjectStore
    name: str = "demo"

    @property
    def root(self) -> Path:
        """A copy of the operator's 1.root.json."""
        path = self.home / "1.root.json"
        path.write_bytes(self.store.get("releases/metadata/1.root.json"))
        return path

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

    def key(self, version: int, name: str) -> str:
        """Where the store holds a file of a release."""
        prefix = f"releases/targets/{self.name}/{version}/"
        return next(key for key in self.store.list(prefix) if key.endswith(f".{name}"))

    def overwrite(self, key: str, data: bytes) -> None:
        """What the pipeline never does, but who has got hold of the store may."""
        (self.home / "store" / key).write_bytes(data)


@dataclass
class BucketReleases(Releases):
    """Releases in the testbed's MinIO."""

    bucket: ReleaseStore | None = None

    def overwrite(self, key: str, data: bytes) -> None:
        assert self.bucket is not None
        self.bucket.client().put_object(BUCKET, key, io.BytesIO(data), len(data))


def run_pipeline(home: Path) -> Releases:
    """Three releases in a folder, elsewhere than on the testbed, which makes its own while it comes up."""
    for seed in SEEDS:
        command = ["make", "--no-print-directory", "pipeline-run", "PRESET=tiny"]
        command += [f"ARGS=--home {home} --set distill.seed={seed}"]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
    return Releases(home, open_store(home / "store"))


class Origin(Protocol):
    """Where nodes read."""

    url: str

    @property
    def sent(self) -> Counter[str]:
        """Node -> bytes that it fetched since `count_from_now`; empty where nobody can tell nodes apart."""

    def count_from_now(self) -> None:
        """Begin to count at zero."""

    def close(self) -> None:
        """Serve no more."""


class BucketOrigin:
    """The testbed's MinIO, as everybody may read it."""

    def __init__(self, bucket: ReleaseStore) -> None:
        self._bucket, self.url = bucket, bucket.url

    @property
    def sent(self) -> Counter[str]:
        return self._bucket.sent()

    def count_from_now(self) -> None:
        self._bucket.count_from_now()

    def close(self) -> None:
        """It goes with the testbed."""


class FolderOrigin(ThreadingHTTPServer):
    """A web server over a folder, at an address of this machine that pods reach: ORIGIN_ADDRESS."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        """
        Raises:
            KeyError: ORIGIN_ADDRESS is not set.
        """
        address = os.environ["ORIGIN_ADDRESS"]
        super().__init__((address, 0), functools.partial(_Handler, directory=str(folder)))
        self.url = f"http://{address}:{self.server_address[1]}"
        threading.Thread(target=self.serve_forever, args=[0.1], daemon=True).start()

    @property
    def sent(self) -> Counter[str]:
        return Counter()

    def count_from_now(self) -> None:
        """It does not count."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client whose link was cut is what these tests are about."""


class _Handler(SimpleHTTPRequestHandler):
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
