"""P12: twice what the node can answer: a bounded queue, a quick no, the peak's goodput, and normal again soon."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from benchmarks.clients import Answered, HttpClient, gaps, open_load
from tests.edge import proof
from tests.edge.conftest import SIZE, NodeProcess, Publisher, StartNode, pictures

pytestmark = pytest.mark.proof

SECONDS = proof.size(3, 20)  # of each load
CLIENTS = 80  # more than the burst that a node lets in
SOON_S = 0.25  # generous: 50 ms are promised, and told by benchmarks/node.py


@dataclass(frozen=True)
class _Result:
    peak: Answered
    crowd: Answered
    after: Answered
    grpc_codes: set[str]  # that a gRPC client got meanwhile


def _overloaded(node: NodeProcess) -> _Result:
    clients = [HttpClient(node.http, "tiny", pictures(1)) for _ in range(CLIENTS)]
    try:
        return _loads(node, clients)
    finally:
        for client in clients:
            client.close()


def _loads(node: NodeProcess, clients: list[HttpClient]) -> _Result:
    peak = open_load(clients[:4], [0.0] * (150 * SECONDS))
    codes, stop = set[str](), threading.Event()
    asking = threading.Thread(target=_ask_grpc, args=(node.grpc, codes, stop))
    asking.start()
    crowd = open_load(clients, gaps(2 * peak.rate, 2 * SECONDS))
    stop.set()
    asking.join()
    time.sleep(1)
    after = open_load(clients, gaps(0.3 * peak.rate, SECONDS))
    return _Result(peak, crowd, after, codes)


def _ask_grpc(address: str, codes: set[str], stop: threading.Event) -> None:
    client = grpc_client.InferenceServerClient(address)
    tensor = grpc_client.InferInput("image", [1, SIZE, SIZE, 3], "UINT8")
    tensor.set_data_from_numpy(pictures(1))
    while not stop.is_set():
        try:
            client.infer("tiny", [tensor])
        except InferenceServerException as error:
            codes.add(error.status())
    client.close()


def _faults(result: _Result) -> list[str]:
    crowd, faults = result.crowd, list[str]()
    late = len(crowd.ms) // 2  # of the overload, not of the burst that it begins with
    if not crowd.refused_ms:
        faults.append("nothing was refused")
    elif np.percentile(crowd.refused_ms, 99) > SOON_S * 1e3:
        faults.append("refused late")
    if np.percentile(crowd.ms[late:], 99) > SOON_S * 1e3:
        faults.append("answered late")
    if crowd.rate < 0.6 * result.peak.rate:
        faults.append(f"{crowd.rate:.0f} answers a second, {result.peak.rate:.0f} at the peak")
    if result.after.refused_ms or np.percentile(result.after.ms, 95) > SOON_S * 1e3:
        faults.append("not normal afterwards")
    if result.grpc_codes != {"StatusCode.RESOURCE_EXHAUSTED"}:
        faults.append(f"gRPC said {result.grpc_codes}")
    failures = [one for seen in (result.peak, crowd, result.after) for one in seen.failures]
    return faults + failures[:3]


def test_twice_the_capacity(publisher: Publisher, start_node: StartNode, tell: Callable[[str, str], None]) -> None:
    publisher.publish()
    node = start_node(module="tests.edge.drivers.slow_student")
    node.wait_version(1)
    result = _overloaded(node)
    assert not _faults(result)
    crowd, peak = result.crowd, result.peak.rate
    refused, answered = np.percentile(crowd.refused_ms, 99), np.percentile(crowd.ms[len(crowd.ms) // 2 :], 99)
    tell(
        "P12",
        f"{len(crowd.ms)} answered, {len(crowd.refused_ms)} refused, 0 failed, at twice the peak of {peak:.0f}/s; "
        f"goodput {crowd.rate / peak:.2f}; p99 of the refused {refused:.0f} ms, of the answered {answered:.0f} ms",
    )


def test_with_a_queue_without_end_nobody_is_refused_and_all_wait(publisher: Publisher, start_node: StartNode) -> None:
    """Negative control."""
    publisher.publish()
    node = start_node(module="tests.edge.drivers.no_queue_limit")
    node.wait_version(1)
    faults = _faults(_overloaded(node))
    assert "nothing was refused" in faults
    assert "answered late" in faults
