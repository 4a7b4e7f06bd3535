"""Speed and memory of an edge node with SqueezeNet 1.1 at 224 px as int8: every ratio inside this one run.

python -m benchmarks.node [--seconds 5]      about four minutes on two cores; nothing else should run meanwhile

The node is the real process with its real front, a signed release and a state folder. kserve's Python ModelServer
serves the same model beside it. Clients are lean, and what they cost counts as the server's.
"""

import argparse
import contextlib
import io
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.bench import NAME, PICTURES, Bench, Node
from benchmarks.clients import DEEP, HttpClient, gaps, open_load
from benchmarks.grpc_client import grpc_client

ROUNDS, CALLS = 12, 40


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="of each load")
    parser.add_argument("--only", default="", help="measures whose name begins so")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as ends:
        bench = Bench(Path(folder), ends, options.seconds)
        for measure in (latency, load, overload, pictures, swaps, memory, start):
            if measure.__name__.startswith(options.only):
                for name, value, goal in measure(bench):
                    print(f"{name:64} {value:>22}   {goal}", flush=True)


Rows = Iterator[tuple[str, str, str]]


def latency(bench: Bench) -> Rows:
    """Added p50 over in process: rounds of all, one after another, so that a slow moment slows all."""
    calls: dict[str, Callable[[], object]] = {
        "REST binary": HttpClient(bench.node.http, NAME, PICTURES).ask,
        "gRPC": grpc_client(bench.node.grpc, NAME, PICTURES),
    }
    yield from _kserve(bench, calls)
    base, seen = list[float](), {name: list[float]() for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            before = statistics.median(bench.in_process.ask("latency", count=CALLS))
            call()
            served = statistics.median(_ms(call) for _ in range(CALLS))
            after = statistics.median(bench.in_process.ask("latency", count=CALLS))
            base.append((before + after) / 2)
            seen[name].append(served - base[-1])
    median = statistics.median(base)
    yield "in process, p50", f"{median:.2f} ms", ""
    for name, added in seen.items():
        goal = "" if "kserve" in name else "<= 0.25"
        share = statistics.median(added) / median
        yield f"added p50 over {name}, over in process", f"{share:.2f} ({statistics.median(added):+.2f} ms)", goal


def _kserve(bench: Bench, calls: dict[str, Callable[[], object]]) -> Rows:
    if find_spec("kserve") is None:
        yield "kserve's ModelServer", "not installed", ""
        return
    ports = [_free_port(), _free_port()]
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.kserve_server", str(bench.model), *map(str, ports)]
    began = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    bench.ends.callback(process.kill)
    while True:
        try:
            if (client := HttpClient(f"127.0.0.1:{ports[0]}", NAME, PICTURES)).ask() == 200:
                break
        except OSError:
            if process.poll() is not None or time.perf_counter() - began > 60:
                yield "kserve's ModelServer", "does not start", ""
                return
        time.sleep(0.05)
    yield "kserve's ModelServer, start to first answer", f"{time.perf_counter() - began:.1f} s", ""
    calls["kserve REST binary"] = client.ask
    calls["kserve gRPC"] = grpc_client(f"127.0.0.1:{ports[1]}", NAME, PICTURES)
    calls["kserve gRPC"]()
    resident = Node(process, "", "").resident_mb()  # type: ignore[arg-type]
    yield "kserve's ModelServer, resident", f"{resident:.0f} MB", ""


def load(bench: Bench) -> Rows:
    """p99 at 70 % load, over in process: the same arrivals for both, and each at 70 % of its own peak."""
    same, own, p99s = list[float](), list[float](), list[float]()
    for turn in range(5):
        ms = statistics.median(bench.in_process.ask("latency", count=200))
        between = gaps(0.7 * 1e3 / ms, bench.seconds, seed=turn)
        alone = _p99(bench.in_process.ask("load", gaps=between))
        p99s.append(_p99(_served(bench, between)))
        same.append(p99s[-1] / alone)
        own.append(_p99(_served(bench, gaps(0.7 * _peak(bench), bench.seconds, seed=turn))) / alone)
    told = f"{statistics.median(same):.2f} ({statistics.median(p99s):.1f} ms)"
    yield "p99 over REST at 70 % of in process, over in process", told, "<= 1.3"
    yield "p99 over REST at 70 % of its own peak, over in process", f"{statistics.median(own):.2f}", ""


def _peak(bench: Bench) -> float:
    """Answers a second when each of eight clients asks again at once."""
    return open_load(bench.clients(8), [0.0] * int(bench.seconds * 1e3 / bench.ms)).rate


def _served(bench: Bench, between: list[float]) -> list[float]:
    seen = open_load(bench.clients(8), between)
    assert not seen.failures, seen.failures[:3]
    return seen.ms


def overload(bench: Bench) -> Rows:
    """Twice the peak: who is let in, how soon the others know."""
    peak = _peak(bench)
    normal = open_load(bench.clients(8), gaps(0.7 * peak, bench.seconds))
    crowd = open_load(bench.clients(DEEP), gaps(2 * peak, 2 * bench.seconds))
    time.sleep(5)
    after = open_load(bench.clients(8), gaps(0.7 * peak, bench.seconds))
    late = len(crowd.ms) // 2  # of the overload, not of the burst that it begins with
    sums = (len(crowd.ms), len(crowd.refused_ms), len(crowd.failures) + len(after.failures))
    yield "twice the peak: answered, refused, failed", "{}, {}, {}".format(*sums), "0 failed"
    yield "goodput over peak", f"{crowd.rate / peak:.2f} ({peak:.0f}/s)", ">= 0.9"
    yield "p99 of the answered over normal", f"{_p99(crowd.ms[late:]) / _p99(normal.ms):.2f}", "<= 2"
    yield "refused within, p99", f"{_p99(crowd.refused_ms or [0.0]):.0f} ms", "<= 50 ms"
    yield "p99 5 s later over normal", f"{_p99(after.ms) / _p99(normal.ms):.2f}", "about 1"


def pictures(bench: Bench) -> Rows:
    """JPEG in, and what larger batches give."""
    buffer = io.BytesIO()
    noise = np.random.default_rng(3).integers(0, 256, (15, 20, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((640, 480), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
    (bench.folder / "picture.jpg").write_bytes(buffer.getvalue())
    rates = bench.in_process.ask("jpeg", path=str(bench.folder / "picture.jpg"), seconds=bench.seconds)
    clients = bench.clients(6, buffer.getvalue())
    served = open_load(clients, [0.0] * int(bench.seconds * min(rates["shared decode"], rates["shared infer"])))
    limit = min(rates["shared decode"], rates["shared infer"])
    told = ", ".join(f"{name} {rate:.0f}" for name, rate in rates.items())
    yield f"JPEG of 640 x 480, a second: {told}", f"served {served.rate:.0f}", ""
    yield "JPEG in, over min(decode, infer) sharing the cores", f"{served.rate / limit:.2f}", ">= 0.85"
    batches = bench.in_process.ask("batches", sizes=[1, 2, 4, 8, 16, 32], seconds=bench.seconds / 3)
    yield "images a second in process, by batch", ", ".join(f"{b}: {r:.0f}" for b, r in batches.items()), ""


def swaps(bench: Bench) -> Rows:
    """70 % of the peak through swaps of release: the longest time without an answer, the slowest one, against calm."""
    peak = _peak(bench)
    versions, calm = [1, bench.publish()], open_load(bench.clients(8), gaps(0.7 * peak, bench.seconds))
    silent, slowest, failed = list[float](), list[float](), 0
    for turn in range(5):
        bench.wanted.write_text(f"{versions[(turn + 1) % 2]}\n")
        seen = open_load(bench.clients(8), gaps(0.7 * peak, 6, seed=turn))
        silent.append(seen.longest_gap_ms)
        slowest.append(max(seen.ms))
        failed += len(seen.failures) + len(seen.refused_ms)
        bench.node.wait_version(versions[(turn + 1) % 2])
    p99 = _p99(calm.ms)
    told = f"{statistics.median(silent) / p99:.2f} ({statistics.median(silent):.0f} ms)"
    yield "longest gap between answers of an update, over p99 in calm", told, "<= 2"
    told = f"{statistics.median(slowest) / p99:.2f} ({statistics.median(slowest):.0f} ms)"
    yield "slowest answer of an update, its queue included, over the same", told, ""
    yield "longest gap in calm, over the same", f"{calm.longest_gap_ms / p99:.2f}", ""
    yield "failed requests of 5 updates", str(failed), "0"


def memory(bench: Bench) -> Rows:
    """After all that."""
    yield "resident, serving process after the loads", f"{bench.node.resident_mb():.0f} MB", ""


def start(bench: Bench) -> Rows:
    """From the command to the first answer."""
    release = int(bench.wanted.read_text())
    bench.node.wait_settled()
    for kind, goal in (("cold", "<= 2 s"), ("warm", "<= 1 s"), ("warm", "<= 1 s")):
        bench.node.process.kill()
        bench.node.process.wait()
        if kind == "cold":
            with contextlib.suppress(OSError):
                os.sync()
                Path("/proc/sys/vm/drop_caches").write_text("3")
        began = time.perf_counter()
        bench.node = bench.start_node()
        bench.node.wait_version(release)
        yield f"start to first answer, {kind}", f"{time.perf_counter() - began:.2f} s", goal
    yield "resident, serving process started and idle", f"{bench.node.resident_mb():.0f} MB", "<= 140 MB"


def _p99(values: list[float]) -> float:
    return float(np.percentile(values, 99))


def _ms(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return (time.perf_counter() - began) * 1e3


def _free_port() -> int:
    with contextlib.closing(socket.socket()) as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    main()
