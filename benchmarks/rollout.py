"""What the rollout controller costs: time, memory and requests of a look, the size of the assignment, one decision.

python -m benchmarks.rollout [--nodes 100 1000 10000]      a minute for 100 and 1,000, which it takes by itself; Linux

The controller's own code, the real client and real connections to one loopback address a node; the API server's answers
and the nodes' are benchmarks.pretend_fleet's, a process beside it. No kubelets and no node processes: see
tests/cluster/test_scale.py for those.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.pretend_fleet import NAMESPACE, RELEASE, name
from edge.rollout.decide import decide
from edge.rollout.model import NodeView, Progress, Target, Wave

SILENT = 0.1
LOOKS = 3
LIMIT_BYTES = 1 << 20  # of a ConfigMap

Rows = Iterator[tuple[str, str, str]]


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="*", default=[100, 1000])
    parser.add_argument(
        "--looks", action="store_true", help="look at the fleet that KUBECONFIG names; for this program"
    )
    options = parser.parse_args()
    if options.looks:
        print(json.dumps(_looks()))
        return
    for count in options.nodes:
        for rows in (look(count, 0.0), look(count, SILENT), decision(count)):
            for told, value, goal in rows:
                print(f"{count:6} nodes: {told:52} {value:>34}   {goal}", flush=True)


def look(count: int, silent_share: float) -> Rows:
    """One look: what the controller asks the API server and the pods, until its decision is written."""
    command = [sys.executable, "-m", "benchmarks.pretend_fleet", str(count), str(silent_share)]
    with (
        tempfile.TemporaryDirectory() as folder,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server,
    ):
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        kubeconfig = Path(folder) / "kubeconfig"
        kubeconfig.write_text(json.dumps(_kubeconfig(url)))
        controller = [sys.executable, "-m", "benchmarks.rollout", "--looks"]
        environment = os.environ | {"KUBECONFIG": str(kubeconfig)}
        done = subprocess.run(controller, env=environment, capture_output=True, text=True, check=True)
        with urllib.request.urlopen(f"{url}/counted", timeout=10) as answer:
            counted = json.load(answer)
        server.communicate()
    seen = json.loads(done.stdout)
    times = ", ".join(f"{one:.2f}" for one in seen["looks_s"])
    if silent_share:
        yield f"looks with {silent_share:.0%} of the pods silent", f"{times} s", ""
        return
    yield "looks, the first one writes the assignment", f"{times} s", ""
    yield "of which the controller's CPU", f"{seen['cpu_s'] / LOOKS:.2f} s a look", ""
    yield "resident at most (before the first look)", f"{seen['peak_mb']:.0f} ({seen['start_mb']:.0f}) MB", "< 256 MB"
    asked = f"{counted['requests'] / LOOKS:.1f}, {counted['sent'] / LOOKS / 1e6:.2f} MB"
    yield "requests to the API server a look, and its answers", asked, ""
    yield "assignment, progress included", f"{counted['assignment'] / 1e3:.0f} kB", f"< {LIMIT_BYTES >> 10} KiB"


def decision(count: int) -> Rows:
    """decide() in the middle of a rollout."""
    waves = (Wave(label=("edgedistill.dev/wave", "canary")), Wave(percent=10), Wave(percent=50), Wave(percent=100))
    target = Target("demo", 2, 7, waves, 10, 5, 50, 120, 900, "", False)
    nodes = [NodeView(name(i), {}, True, 0.0, 2 if i < count // 2 else 1, 1, "serving", "") for i in range(count)]
    progress = Progress(2, 7, 1, 2, 1000.0, None, "rolling", "")
    assigned = {node.name: node.active or 1 for node in nodes}
    times = []
    for _ in range(5):
        began = time.perf_counter()
        decide(target, progress, nodes, now=1001.0, assigned=assigned)
        times.append(time.perf_counter() - began)
    yield "decide(), the slowest of 5", f"{1e3 * max(times):.1f} ms", "< 1 s at 10,000"


def _looks() -> dict[str, Any]:
    from edge.rollout.controller import Controller
    from edge.rollout.fleet import Fleet

    controller = Controller(Fleet(RELEASE, NAMESPACE))
    start_mb, cpu = _peak_mb(), time.process_time()
    times = []
    for _ in range(LOOKS):
        began = time.perf_counter()
        controller.step()
        times.append(time.perf_counter() - began)
    return {"looks_s": times, "cpu_s": time.process_time() - cpu, "start_mb": start_mb, "peak_mb": _peak_mb()}


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # Linux: in KiB


def _kubeconfig(url: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "pretend",
        "clusters": [{"name": "pretend", "cluster": {"server": url}}],
        "users": [{"name": "pretend", "user": {}}],
        "contexts": [{"name": "pretend", "context": {"cluster": "pretend", "user": "pretend"}}],
    }


if __name__ == "__main__":
    main()
