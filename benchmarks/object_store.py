"""Speed of an object store: small objects one after another, and one of 50 MB. Seconds.

python -m benchmarks.object_store FOLDER-or-s3://BUCKET[/PREFIX]
"""

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from edgedistill.storage import open_store

SMALL, COUNT = 4_000, 300  # bytes, objects
LARGE = 50_000_000  # bytes
TURNS = 5  # of the large object; the median counts


def main() -> None:
    """Measure, print one line a kind of call, and remove what was written."""
    store = open_store(sys.argv[1])
    folder = f"benchmark/{os.getpid()}"
    keys = [f"{folder}/small/{number}" for number in range(COUNT)]
    data = os.urandom(SMALL)
    with tempfile.NamedTemporaryFile() as source:
        source.write(os.urandom(LARGE))
        source.flush()
        rows: list[tuple[str, float]] = [
            ("put, 4 kB", COUNT / seconds(lambda: [store.put(key, data) for key in keys])),
            ("get, 4 kB", COUNT / seconds(lambda: [store.get(key) for key in keys])),
            ("exists", COUNT / seconds(lambda: [store.exists(key) for key in keys])),
        ]
        large = [f"{folder}/large/{turn}" for turn in range(TURNS)]
        put = [seconds(lambda key=key: store.put_file(key, Path(source.name))) for key in large]  # type: ignore[misc]
        get = [seconds(lambda key=key: sum(map(len, store.stream(key)))) for key in large]  # type: ignore[misc]
    for name, rate in rows:
        print(f"{name:12} {rate:8.0f} a second")
    for name, times in (("put, 50 MB", put), ("get, 50 MB", get)):
        print(f"{name:12} {LARGE / 1e6 / statistics.median(times):8.0f} MB/s")
    for key in keys + large:
        store.delete(key)


def seconds(call: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
