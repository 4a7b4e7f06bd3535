"""The student without a server, in a process of its own: what the node's figures are held against.

python -m benchmarks.in_process MODEL.xml      reads one JSON command a line, answers one JSON line
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.student import SIZE
from edgedistill.images import center_view, decode
from edgedistill.inference import Student


def main() -> None:
    """Answer until the input ends."""
    bench = InProcess(Path(sys.argv[1]))
    for line in sys.stdin:
        command = json.loads(line)
        print(json.dumps(getattr(bench, command.pop("do"))(**command)), flush=True)


class InProcess:
    """One student, and what is measured of it."""

    def __init__(self, model: Path) -> None:
        self._student = Student.read(model)
        self._picture = np.random.default_rng(1).integers(0, 256, (1, SIZE, SIZE, 3), dtype=np.uint8)

    def latency(self, count: int) -> list[float]:
        """Milliseconds of each of `count` answers."""
        return [_ms(lambda: self._student.logits(self._picture)) for _ in range(count)]

    def load(self, gaps: list[float]) -> list[float]:
        """Milliseconds from each arrival to its answer, one after another; `gaps` are seconds between arrivals."""
        arrival, waited = time.perf_counter(), []
        for gap in gaps:
            arrival += gap
            time.sleep(max(0.0, arrival - time.perf_counter()))
            self._student.logits(self._picture)
            waited.append((time.perf_counter() - arrival) * 1e3)
        return waited

    def batches(self, sizes: list[int], seconds: float) -> dict[str, float]:
        """Images a second at each batch size."""
        rates = {}
        for size in sizes:
            batch = np.repeat(self._picture, size, axis=0)
            self._student.logits(batch)
            rates[str(size)] = size * _rate([lambda batch=batch: self._student.logits(batch)], seconds)[0]  # type: ignore[misc]
        return rates

    def jpeg(self, path: str, seconds: float) -> dict[str, float]:
        """Pictures a second: decoded on all cores, inferred; alone, and while both go on at once."""
        data = Path(path).read_bytes()
        decoding: list[Callable[[], Any]] = [lambda: center_view(decode(data), SIZE)] * (os.cpu_count() or 1)
        inferring: list[Callable[[], Any]] = [lambda: self._student.logits(self._picture)]
        shared = _rate(decoding + inferring, seconds)
        return {
            "decode": sum(_rate(decoding, seconds)),
            "infer": sum(_rate(inferring, seconds)),
            "shared decode": sum(shared[:-1]),
            "shared infer": shared[-1],
        }


def _rate(calls: list[Callable[[], Any]], seconds: float) -> list[float]:
    """Calls a second, each on a thread of its own."""
    counts, ends = [0] * len(calls), time.perf_counter() + seconds

    def loop(number: int) -> None:
        while time.perf_counter() < ends:
            calls[number]()
            counts[number] += 1

    threads = [threading.Thread(target=loop, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [count / seconds for count in counts]


def _ms(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


if __name__ == "__main__":
    main()
