"""A node that is kept busy with all that may come, and what it takes of the machine meanwhile."""

import contextlib
import http.client
import json
import os
import random
import socket
import statistics
import struct
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from tests.edge.conftest import NodeProcess, Publisher, pictures

LOAD_PER_S = 20
# A cycle is one or two swaps. Python's and OpenVINO's allocators settle within the first cycles; these are dropped.
WARM_UP = 0.3  # of the cycles
MOST_PER_CYCLE = {"resident_kb": 400.0, "descriptors": 0.15, "threads": 0.15}
MOST_KB = 8192.0  # in all, however many cycles there were


@dataclass(frozen=True)
class Sample:
    """What a process takes at the end of a cycle."""

    resident_kb: int
    descriptors: int
    threads: int

    @staticmethod
    def of(pid: int) -> "Sample":
        """Of a process that is idle: the least of a few looks, since connections come and go."""
        looks = []
        for _ in range(5):
            status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
            descriptors = len(list(Path(f"/proc/{pid}/fd").iterdir()))
            looks.append((int(status["VmRSS"].split()[0]), descriptors, int(status["Threads"])))
            time.sleep(0.05)
        return Sample(*(min(values) for values in zip(*looks, strict=True)))


def growth(samples: Sequence[Sample]) -> dict[str, float]:
    """Name -> growth a cycle: the median slope of all pairs of samples (Theil, Sen), which a few jumps do not move."""
    settled = samples[int(WARM_UP * len(samples)) :]
    pairs = list(combinations(range(len(settled)), 2))
    return {
        name: statistics.median((getattr(settled[j], name) - getattr(settled[i], name)) / (j - i) for i, j in pairs)
        for name in MOST_PER_CYCLE
    }


def leaks(samples: Sequence[Sample]) -> set[str]:
    """What grows more than it may."""
    cycles = max(1, len(samples) - int(WARM_UP * len(samples)))
    most = MOST_PER_CYCLE | {"resident_kb": min(MOST_PER_CYCLE["resident_kb"], MOST_KB / cycles)}
    return {name for name, value in growth(samples).items() if value > most[name]}


@dataclass
class Load:
    """A thread of well-behaved requests."""

    address: str
    answered: int = 0
    failed: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def running(self) -> Iterator["Load"]:
        stop = threading.Event()
        thread = threading.Thread(target=self._run, args=[stop])
        thread.start()
        try:
            yield self
        finally:
            stop.set()
            thread.join()

    def _run(self, stop: threading.Event) -> None:
        images = pictures(1)
        tensor = {"name": "image", "datatype": "UINT8", "shape": list(images.shape), "data": images.ravel().tolist()}
        body = json.dumps({"inputs": [tensor]})
        connection = http.client.HTTPConnection(self.address, timeout=20)
        while not stop.wait(1 / LOAD_PER_S):
            try:
                connection.request("POST", "/v2/models/tiny/infer", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
                if answer.status != 200:
                    self.failed.append(f"{answer.status}")
                self.answered += 1
            except OSError as error:
                self.failed.append(repr(error))
                connection.close()
        connection.close()


@dataclass
class Soak:
    """One node on its way through cycles of updates, faults and bad clients."""

    node: NodeProcess
    publisher: Publisher
    state: Path
    wanted: Path
    chance: random.Random
    good: tuple[int, ...]  # versions
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("swaps", "refused", "cuts", "bad"), 0))
    samples: list[Sample] = field(default_factory=list)
    most_bytes: int = 0  # that the state folder took

    def cycle(self, *, with_faults: bool = True) -> None:
        """A swap, a release that is refused, a cut of the origin, malformed requests, clients that go away."""
        self._swap()
        if with_faults:
            self._refused()
            self._cut()
            for _ in range(10):
                self._bad_client()
        self._childless()
        assert self.node.process is not None
        self.samples.append(Sample.of(self.node.process.pid))
        self.most_bytes = max(self.most_bytes, self.disk_bytes())

    def disk_bytes(self) -> int:
        """What lies in the state folder: the less of two looks, since a file that moves meanwhile counts twice."""
        return min(self._look(), self._look())

    def _look(self) -> int:
        total = 0
        for folder, _, names in os.walk(self.state):  # folders may go while they are walked
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    total += (Path(folder) / name).lstat().st_size
        return total

    def _swap(self) -> None:
        active = self.node.status()["active"]["version"]
        new = self.good[(self.good.index(active) + 1) % len(self.good)]
        self.wanted.write_text(f"{new}\n")
        self.node.wait(self._watched(lambda status: status["active"]["version"] == new))
        self.counts["swaps"] += 1

    def _refused(self) -> None:
        bad = self.publisher.publish(change=lambda golden: golden.__setitem__(0, (golden[0][0], [9.0] * 4)))
        self.wanted.write_text(f"{bad}\n")
        self.node.wait(self._watched(lambda status: any(r["version"] == bad for r in status["quarantined"])))
        self.counts["refused"] += 1

    def _cut(self) -> None:
        metadata = self.publisher.releases / "metadata"
        metadata.rename(away := metadata.with_name("away"))
        self.wanted.write_text(f"{self.good[0] + 1000 + self.counts['cuts']}\n")  # somebody asks meanwhile
        try:
            self.node.wait(lambda status: status["last_event"].get("reason") in ("unreachable", "missing_file"))
        finally:
            away.rename(metadata)
        self.counts["cuts"] += 1

    def _bad_client(self) -> None:
        host, port = self.node.http.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=10) as client:
            body = self.chance.randbytes(self.chance.randrange(200))
            head = f"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            message = self.chance.choice((head + body, head + body[:-1], head[: self.chance.randrange(1, 60)], body))
            client.sendall(message or b"\0")
            if self.chance.random() < 0.5:  # close with a reset
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.counts["bad"] += 1

    def _childless(self) -> None:
        """The node's children end and are reaped. Between two rounds there is none."""
        assert self.node.process is not None
        tasks = Path(f"/proc/{self.node.process.pid}/task")
        for _ in range(400):
            children = []
            for path in tasks.glob("*/children"):
                with contextlib.suppress(OSError):
                    children += path.read_text().split()
            if not children:
                return
            time.sleep(0.05)
        raise AssertionError(f"children stay: {children}")

    def _watched(self, is_there):  # type: ignore[no-untyped-def]
        def look(status: object) -> bool:
            self.most_bytes = max(self.most_bytes, self.disk_bytes())
            return bool(is_there(status))

        return look
