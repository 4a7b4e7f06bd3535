"""P14: whatever a client sends, over REST and gRPC, the node answers in time with a typed error, and then rightly."""

import json
import re
import socket
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import grpc
import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from edgedistill.inference import Student
from tests.edge.conftest import NodeProcess, Publisher, StartNode, pictures, tiny_model
from tests.edge.fuzz_cases import PIXELS, REST, binary, document, message
from tests.edge.proof import generator, size

pytestmark = pytest.mark.proof
HANG_S = 1.0
PATIENCE_S = 15.0
ROOT = Path(__file__).resolve().parents[2]
LEAKS = re.compile(
    rf"Traceback|File \"|\.py\b|site-packages|0x[0-9a-f]{{6,}}|object at|{re.escape(str(ROOT))}|/usr/|/tmp/"
)
TYPED = {
    grpc.StatusCode[name]
    for name in ("INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "OUT_OF_RANGE")
}
INFER = "/inference.GRPCInferenceService/ModelInfer"


class Violation(AssertionError):  # noqa: N818 - what a case found
    """A promise that did not hold."""


def exchange(address: str, data: bytes) -> tuple[bytes, float]:
    """Send, close our half, and read to the end: the answer, and how long it took."""
    host, _, port = address.rpartition(":")
    with socket.create_connection((host, int(port)), timeout=PATIENCE_S) as connection:
        began = time.monotonic()
        answer = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while block := connection.recv(1 << 16):
                answer += block
        except TimeoutError:
            raise Violation(f"no end in {PATIENCE_S} s: {data[:300]!r}") from None
        except OSError:
            pass  # reset: what was unread of a refused request
        return answer, time.monotonic() - began


def timely(send: Callable[[], tuple[bytes, float]], what: bytes) -> bytes:
    """The answer of a case; slow three times is a hang, once is a busy machine."""
    for _ in range(3):
        answer, took = send()
        if took <= HANG_S:
            return answer
    raise Violation(f"{took:.1f} s: {what[:300]!r}")


def status_of(answer: bytes, sent: bytes) -> int:
    """The first answer's status; 0: the connection was closed without a word."""
    if not answer:
        return 0
    head, _, body = answer.partition(b"\r\n\r\n")
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", head)
    if not found:
        raise Violation(f"no HTTP: {answer[:200]!r} to {sent[:300]!r}")
    status = int(found[1])
    if status >= 400:
        is_quiet = status in (400, 405, 404) and not body and sent.startswith(b"HEAD ")
        if not (400 <= status < 500) or not (is_quiet or _is_typed(body)):
            raise Violation(f"{answer[:400]!r} to {sent[:300]!r}")
    return status


def _is_typed(body: bytes) -> bool:
    """One JSON object (of pipelined requests the first) with one sentence, without anything of the inside."""
    try:
        told, _ = json.JSONDecoder().raw_decode(body.decode())
    except ValueError:
        return False
    return list(told) == ["error"] and len(told["error"]) < 400 and not LEAKS.search(told["error"])


def right(node: NodeProcess) -> None:
    """The node answers a right request rightly."""
    answer, _ = exchange(node.http, binary(document()))
    told = json.loads(answer.partition(b"\r\n\r\n")[2])
    np.testing.assert_allclose(told["outputs"][0]["data"], Student(tiny_model(1)).logits(pictures(1))[0], rtol=1e-4)


def fuzz_rest(node: NodeProcess, rounds: int) -> "Counter[int]":
    """`rounds` cases of each kind."""
    rng, seen = generator("P14"), Counter[int]()
    for kind, make in REST.items():
        for _ in range(rounds):
            data = make(rng)
            seen[status_of(timely(lambda data=data: exchange(node.http, data), data), data)] += 1  # type: ignore[misc]
        try:
            right(node)
        except (ValueError, AssertionError, OSError) as error:
            raise Violation(f"after the cases of {kind}: {error}") from error
    return seen


def fuzz_grpc(node: NodeProcess, rounds: int) -> "Counter[str]":
    """Messages that lie, bytes that are no message, calls that are not there, bytes that are no HTTP/2."""
    rng, seen = generator("P14-grpc"), Counter[str]()
    with grpc.insecure_channel(node.grpc) as channel:
        calls = [INFER, "/inference.GRPCInferenceService/ModelMetadata", "/inference.GRPCInferenceService/ModelReady"]
        for i in range(rounds):
            data = message(rng) if i % 4 else rng.randbytes(rng.randrange(200))
            name = INFER if i % 4 else rng.choice([*calls, "/inference.GRPCInferenceService/Odd", "/odd.Odd/Odd"])
            seen[_call(channel, name, data)] += 1
        for _ in range(rounds // 20):
            exchange(node.grpc, rng.choice([b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]) + rng.randbytes(200))
        seen[_call(channel, INFER, b"\x2a\x00" * (8 << 20))] += 1  # would make a gigabyte
        asked = service_pb2.ModelInferRequest(model_name="tiny", raw_input_contents=[PIXELS])
        asked.inputs.add(name="image", datatype="UINT8", shape=[1, 8, 8, 3])
        raw = channel.unary_unary(INFER)(asked.SerializeToString(), timeout=PATIENCE_S)
    logits = np.frombuffer(service_pb2.ModelInferResponse.FromString(raw).raw_output_contents[0], np.float32)
    np.testing.assert_allclose(logits, Student(tiny_model(1)).logits(pictures(1))[0], rtol=1e-4)
    return seen


def _call(channel: grpc.Channel, name: str, data: bytes) -> str:
    for _ in range(3):
        began, code, details = time.monotonic(), grpc.StatusCode.OK, ""
        try:
            channel.unary_unary(name)(data, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            code, details = error.code(), error.details() or ""
        if code is not grpc.StatusCode.OK and (code not in TYPED or len(details) > 400 or LEAKS.search(details)):
            raise Violation(f"{code} {details!r} to {name} {data[:300]!r}")
        if time.monotonic() - began <= HANG_S:
            return str(code.name)
    raise Violation(f"over {HANG_S} s: {name} {data[:300]!r}")


def test_nothing_that_a_client_sends_crashes_or_hangs_a_node(
    publisher: Publisher, start_node: StartNode, tell: Callable[[str, str], None]
) -> None:
    publisher.publish(seed=1)
    node = start_node()
    node.wait_version(1)
    assert node.process is not None
    before = int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{node.process.pid}/status").read_text())[0])  # kB
    rest = fuzz_rest(node, size(25, 1000))
    messages = fuzz_grpc(node, size(300, 10_000))
    assert node.status()["active"]["version"] == 1
    grown = int(re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{node.process.pid}/status").read_text())[0]) - before
    said = node.kill()
    assert "Traceback" not in said, said[-3000:]
    assert grown < 250_000, f"grew by {grown} kB"
    counts = f"REST {rest.total()} requests {dict(sorted(rest.items()))}; gRPC {messages.total()} {dict(messages)}"
    tell("P14", f"the node grew by {grown // 1000} MB; {counts}")


@pytest.mark.parametrize(
    ("driver", "fuzz"), [("untyped", fuzz_rest), ("untyped_grpc", fuzz_grpc), ("patient", fuzz_rest)]
)
def test_negative_control_without_a_check_the_same_cases_find_it(
    driver: str, fuzz: Callable[[NodeProcess, int], object], publisher: Publisher, start_node: StartNode
) -> None:
    publisher.publish(seed=1)
    node = start_node(module=f"tests.edge.drivers.{driver}")
    node.wait_version(1)
    with pytest.raises(Violation):
        fuzz(node, 300)
