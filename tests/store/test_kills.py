"""kill -9 of a writer and of MinIO: an object is absent or complete, and what was acknowledged is there."""

import contextlib
import itertools
import os
import random
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from edgedistill.errors import StorageError
from edgedistill.s3_requests import S3Access
from edgedistill.storage import ObjectStore, open_store
from edgedistill.storage_s3 import S3Store
from tests.minio.server import MinioServer

KILLS = int(os.environ.get("EDGEDISTILL_KILLS", "4"))  # of each kind; more for a longer proof
SIZE = 3_000_000  # bytes; a write takes long enough to be hit
WRITER = """
import hashlib, os, sys, tempfile, time
from pathlib import Path
from edgedistill.storage import DirectoryStore, open_store
{guard}
store = open_store(sys.argv[1])
with tempfile.NamedTemporaryFile() as source:
    print("ready", flush=True)
    for number in range(10_000):
        data = hashlib.shake_128(str(number).encode()).digest({size})
        Path(source.name).write_bytes(data)
        key = f"objects/{{number % 7}}/{{hashlib.sha256(data).hexdigest()}}"
        store.put(key, data) if number % 2 else store.put_file(key, Path(source.name))
        print(key, flush=True)
"""
IN_PLACE = """
def put(store, key, data):
    store.path(key).parent.mkdir(parents=True, exist_ok=True)
    with store.path(key).open("wb") as sink:
        sink.write(data[:100_000])
        sink.flush()
        print("begun", flush=True)
        time.sleep(60)
DirectoryStore.put = put
DirectoryStore.put_file = lambda store, key, path: put(store, key, path.read_bytes())
"""


def killed_writer(address: str, after_s: float, *, guard: str = "") -> list[str]:
    """Start a writer, kill it, and give the keys that it had written by its own account."""
    code = WRITER.format(guard=guard, size=SIZE)
    with subprocess.Popen([sys.executable, "-c", code, address], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        if guard:
            assert writer.stdout.readline() == "begun\n"
        time.sleep(after_s)
        writer.kill()
        return writer.stdout.read().split()


def damaged(store: ObjectStore, acknowledged: list[str]) -> list[str]:
    """Objects that are not what their name says, and acknowledged ones that are not there."""
    keys = list(store.list(""))
    return [key for key in keys if store.digest(key) != key.rpartition("/")[2]] + sorted(set(acknowledged) - set(keys))


def test_a_killed_writer_leaves_whole_objects(address: str) -> None:
    seed = random.randrange(10_000)
    chance, written = random.Random(seed), 0
    for turn in range(KILLS):
        acknowledged = killed_writer(f"{address}/{turn}", chance.uniform(0.05, 1.0))
        assert damaged(open_store(f"{address}/{turn}"), acknowledged) == [], f"seed {seed}"
        written += len(acknowledged)
    print(f"writer killed {KILLS} times, {written} objects acknowledged, all whole (seed {seed})")


def test_a_writer_without_the_temporary_file_is_caught(tmp_path: Path) -> None:
    """The negative control for the directory; in a bucket the server holds the guard."""
    killed_writer(str(tmp_path), 0, guard=IN_PLACE)
    assert len(damaged(open_store(tmp_path), [])) == 1


class HastyStore(S3Store):
    """The negative control: it says that an object is written, and writes it a moment later."""

    def put(self, key: str, data: bytes) -> None:
        def later() -> None:
            with contextlib.suppress(StorageError):
                write(key, data)

        write = super().put
        self.writers.submit(later)

    writers = ThreadPoolExecutor(1)


@dataclass
class Publishes:
    """What a publisher was told."""

    acknowledged: dict[str, bytes] = field(default_factory=dict)
    failed: dict[str, bytes] = field(default_factory=dict)

    def run(self, store: ObjectStore, ended: threading.Event, chance: random.Random) -> None:
        for number in itertools.count():
            if ended.wait(0.002):
                return
            key, data = f"publishes/{number}", chance.randbytes(chance.randrange(200_000))
            try:
                store.put(key, data)
                self.acknowledged[key] = data
            except StorageError:
                self.failed[key] = data

    def lost(self, store: ObjectStore) -> list[str]:
        """Acknowledged, but absent or changed; and reported as failed, but there by half."""
        keys = set(store.list(""))
        lost = [key for key, data in self.acknowledged.items() if key not in keys or store.get(key) != data]
        return lost + [key for key, data in self.failed.items() if key in keys and store.get(key) != data]


def publish_through_kills(minio: MinioServer, kind: type[S3Store], seed: int) -> tuple[Publishes, list[str]]:
    """Publish while MinIO is killed and started again, KILLS times. A store's patience of 0 gives some failures."""
    chance, publishes, ended = random.Random(seed), Publishes(), threading.Event()
    store = minio.store(f"kills-{uuid.uuid4().hex}", patience_s=0, kind=kind)
    publisher = threading.Thread(target=publishes.run, args=(store, ended, random.Random(seed)))
    publisher.start()
    try:
        for _ in range(KILLS):
            time.sleep(chance.uniform(0.3, 0.9))
            minio.kill()
            minio.start()
        time.sleep(0.3)
    finally:
        ended.set()
        publisher.join()
    store.close()
    again = S3Store(store.uri, S3Access.from_environment(minio.environment))
    lost = publishes.lost(again)
    again.close()
    counts = f"{len(publishes.acknowledged)} acknowledged, {len(publishes.failed)} reported failed, {len(lost)} lost"
    print(f"MinIO killed {KILLS} times, {counts} (seed {seed})")
    return publishes, lost


def test_no_acknowledged_publish_is_lost(minio: MinioServer) -> None:
    publishes, lost = publish_through_kills(minio, S3Store, random.randrange(10_000))
    assert lost == []
    assert len(publishes.acknowledged) >= KILLS
    assert publishes.failed, "no kill hit a publish: nothing was tried"


def test_a_store_that_acknowledges_too_early_is_caught(minio: MinioServer) -> None:
    _, lost = publish_through_kills(minio, HastyStore, 7)
    assert lost
