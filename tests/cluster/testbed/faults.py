"""What goes wrong in the field, done to the testbed: links, the API server and the processes of pods.

The context managers undo what they did. Kubelets: `Testbed.restart_kubelet`.
"""

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.testbed.network import CLOUD, EdgeNode, cut, mend
from tests.cluster.testbed.processes import run, started
from tests.cluster.testbed.testbed import Testbed


@contextlib.contextmanager
def cut_off(node: EdgeNode) -> Iterator[None]:
    """A node without its link: it reaches nothing and nobody reaches it, pods of its own excepted."""
    cut(node)
    try:
        yield
    finally:
        mend(node)


@contextlib.contextmanager
def no_api_server(testbed: Testbed) -> Iterator[None]:
    """Kill the API server; at the end it is there again, with the same data and address.

    Raises:
        TimeoutError: it does not come back.
    """
    testbed.stop_api_server()
    try:
        yield
    finally:
        testbed.start_api_server()


def pod_processes(uid: str) -> list[int]:
    """Pids, as this machine sees them, of a pod's containers without the pause container, parents first.

    Args:
        uid: `metadata.uid` of the pod.
    """
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            is_ours = any(f"/pod{uid}/" in line for line in (process / "cgroup").read_text().splitlines())
            if is_ours and (process / "cmdline").read_bytes() not in (b"", b"/pause\0"):
                found.append(int(process.name))
    return sorted(found, key=lambda pid: int(started(pid) or 0))


def kill_pod_process(uid: str) -> None:
    """kill -9 a pod's first process; the kubelet starts the container again.

    Raises:
        ProcessLookupError: the pod has none on this machine.
    """
    os.kill(_first(uid), signal.SIGKILL)


@contextlib.contextmanager
def frozen(uid: str) -> Iterator[None]:
    """A pod whose processes stand still: its node is ready, the pod is silent. A liveness probe ends it in time."""
    pids = {pid: started(pid) for pid in pod_processes(uid)}
    if not pids:
        raise ProcessLookupError(f"pod {uid} has no process on this machine")
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid, start in pids.items():
            if started(pid) == start:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)


def link_bytes(node: EdgeNode) -> tuple[int, int]:
    """(bytes that the node received, bytes that it sent) over its link since the testbed came up."""
    text = run("ip", "-n", CLOUD, "-s", "-j", "link", "show", "dev", node.link)
    counts = json.loads(text)[0]["stats64"]
    return counts["tx"]["bytes"], counts["rx"]["bytes"]  # seen from the cloud's end


def _first(uid: str) -> int:
    pids = pod_processes(uid)
    if not pids:
        raise ProcessLookupError(f"pod {uid} has no process on this machine")
    return pids[0]
