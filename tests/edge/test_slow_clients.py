"""P15: slow, silent, stalled and resetting clients do not keep the others from their answers, and are ended."""

import asyncio
import contextlib
import http.client
import json
import os
import resource
import socket
import statistics
import struct
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import pytest
import tritonclient.grpc as grpc_client

from tests.edge import proof
from tests.edge.conftest import SIZE, NodeProcess, Publisher, StartNode, pictures

pytestmark = pytest.mark.proof

CLIENTS = proof.size(100, 1000)  # on each of the two ports
HOLD_S = 6.0  # three times the longest limit of the driver short_limits
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
Bad = Callable[[str, int], Awaitable[bool]]  # True: the node ended the connection


async def _is_ended(reader: asyncio.StreamReader, within_s: float) -> bool:
    with contextlib.suppress(ConnectionError):
        try:
            await asyncio.wait_for(reader.read(-1), within_s)
        except TimeoutError:
            return False
    return True


def _sends(first: bytes, *, drops: bytes = b"") -> Bad:
    """Sends `first`, then a byte of `drops` now and then."""

    async def bad(host: str, port: int) -> bool:
        try:
            reader, writer = await asyncio.open_connection(host, port)
            ended = asyncio.create_task(_is_ended(reader, HOLD_S))
            with contextlib.suppress(ConnectionError):
                writer.write(first)
                while drops and not ended.done():
                    writer.write(drops[:1])
                    await asyncio.sleep(0.3)
            result = await ended
            writer.transport.abort()
            return result
        except ConnectionError:
            return True

    return bad


async def _stalled(host: str, port: int) -> bool:
    """Asks on and on, and reads no answer."""
    loop = asyncio.get_running_loop()
    with contextlib.closing(socket.socket()) as one:
        one.setblocking(False)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        try:
            await loop.sock_connect(one, (host, port))
            ends = loop.time() + HOLD_S
            while loop.time() < ends:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(loop.sock_sendall(one, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 4), 0.2)
                await asyncio.sleep(0.05)
        except ConnectionError:
            return True
    return False


async def _resets(host: str, port: int) -> bool:
    """Connects, sends half a request and resets, again and again."""
    for _ in range(20):
        with contextlib.suppress(ConnectionError):
            _, writer = await asyncio.open_connection(host, port)
            writer.write(b"POST /v2/models/tiny/infer HTTP/1.1\r\nContent-Length: 1000\r\n\r\nhalf")
            one = writer.get_extra_info("socket")
            one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()
        await asyncio.sleep(HOLD_S / 40)
    return True


HTTP_KINDS: dict[str, Bad] = {
    "silent": _sends(b""),
    "slow headers": _sends(b"GET /status HTTP/1.1\r\nX: ", drops=b"x"),
    "slow body": _sends(b"POST /v2/models/tiny/infer HTTP/1.1\r\nContent-Length: 20000\r\n\r\n", drops=b"x"),
    "idle after an answer": _sends(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"),
    "stalled reader": _stalled,
    "resets": _resets,
}
GRPC_KINDS: dict[str, Bad] = {
    "silent": _sends(b""),
    "slow preface": _sends(b"PRI ", drops=b"*"),
    "no call": _sends(PREFACE),
    "resets": _resets,
}


@dataclass
class _Seen:
    """What good clients saw."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class _GoodClients:
    """Three of them: HTTP on one connection, HTTP on a new one each time, gRPC."""

    def __init__(self, node: NodeProcess) -> None:
        self.seen: dict[str, _Seen] = {}
        self._node, self._stop, self._threads = node, threading.Event(), list[threading.Thread]()
        self._http = http.client.HTTPConnection(node.http, timeout=5)
        inputs = [
            {"name": "image", "datatype": "UINT8", "shape": [1, SIZE, SIZE, 3], "data": pictures(1).ravel().tolist()}
        ]
        self._body = json.dumps({"inputs": inputs})
        self._grpc = grpc_client.InferenceServerClient(node.grpc)
        self._tensor = grpc_client.InferInput("image", [1, SIZE, SIZE, 3], "UINT8")
        self._tensor.set_data_from_numpy(pictures(1))
        self._call()  # a gRPC client that comes during the flood may be refused until silent ones are ended

    def __enter__(self) -> "_GoodClients":
        for call in (self._kept, self._fresh, self._call):
            self.seen[call.__name__.strip("_")] = seen = _Seen()
            self._threads.append(threading.Thread(target=self._ask, args=(call, seen)))
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._http.close()
        self._grpc.close()

    def _ask(self, call: Callable[[], None], seen: _Seen) -> None:
        while not self._stop.wait(0.05):
            began = time.perf_counter()
            try:
                call()
            except Exception as error:
                seen.failures.append(repr(error))
            seen.seconds.append(time.perf_counter() - began)

    def _kept(self) -> None:
        _post(self._http, self._body)

    def _fresh(self) -> None:
        with contextlib.closing(http.client.HTTPConnection(self._node.http, timeout=5)) as connection:
            _post(connection, self._body)

    def _call(self) -> None:
        self._grpc.infer("tiny", [self._tensor], client_timeout=5)


def _post(connection: http.client.HTTPConnection, body: str) -> None:
    connection.request("POST", "/v2/models/tiny/infer", body)
    answer = connection.getresponse()
    said = answer.read()
    assert answer.status == 200, said


@dataclass(frozen=True)
class _Result:
    ended: dict[str, tuple[int, int]]  # kind -> (ended by the node, tried)
    most_sockets: int  # that the node held
    good: dict[str, _Seen]
    calm: dict[str, _Seen]  # before


def _attacked(node: NodeProcess, clients: int) -> _Result:
    assert node.process is not None
    folder, most, stop = f"/proc/{node.process.pid}/fd", 0, threading.Event()

    def watch() -> None:
        nonlocal most
        while not stop.wait(0.1):
            most = max(most, len(os.listdir(folder)))  # noqa: PTH208 - only counted

    async def attack() -> dict[str, tuple[int, int]]:
        tasks: dict[str, list[asyncio.Task[bool]]] = {}
        for protocol, address, kinds in (("http", node.http, HTTP_KINDS), ("grpc", node.grpc, GRPC_KINDS)):
            host, _, port = address.rpartition(":")
            for number in range(clients):
                kind = list(kinds)[number % len(kinds)]
                bad = kinds[kind](host, int(port))
                tasks.setdefault(f"{protocol} {kind}", []).append(asyncio.create_task(bad))
                if number % 50 == 49:
                    await asyncio.sleep(0.05)  # the backlog is not what is tested
        return {kind: (sum([await one for one in ones]), len(ones)) for kind, ones in tasks.items()}

    with _GoodClients(node) as calm:
        time.sleep(2)
    watcher = threading.Thread(target=watch)
    watcher.start()
    with _GoodClients(node) as good:
        ended = asyncio.run(attack())
    stop.set()
    watcher.join()
    return _Result(ended, most, good.seen, calm.seen)


def _faults(result: _Result) -> list[str]:
    """What is not as promised."""
    faults = [f"{kind}: {n - k} of {n} were not ended" for kind, (k, n) in result.ended.items() if k != n]
    faults += [f"good client {name}: {seen.failures[:3]}" for name, seen in result.good.items() if seen.failures]
    if result.most_sockets > 260:  # 60 connections a port, and the node's own files
        faults.append(f"the node held {result.most_sockets} descriptors")
    return faults


@pytest.fixture(autouse=True)
def _many_files() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))


def test_good_clients_are_answered_and_bad_ones_ended(
    publisher: Publisher, start_node: StartNode, tell: Callable[[str, str], None]
) -> None:
    publisher.publish()
    node = start_node(module="tests.edge.drivers.short_limits")
    node.wait_version(1)
    result = _attacked(node, CLIENTS)
    assert not _faults(result)
    told = []
    for name, seen in result.good.items():
        before, during = (statistics.quantiles(one.seconds, n=100)[98] for one in (result.calm[name], seen))
        assert during < max(3.0, 10 * before), f"{name}: p99 {during:.3f} s, {before:.3f} s when nothing was wrong"
        told.append(f"{name} {len(seen.seconds)} answers, p99 {during * 1e3:.0f} ms ({before * 1e3:.0f} ms in calm)")
    bad = sum(n for _, n in result.ended.values())
    tell("P15", f"{bad} bad clients on both ports, all ended, {result.most_sockets} descriptors; {'; '.join(told)}")


def test_without_the_limits_they_stay(publisher: Publisher, start_node: StartNode) -> None:
    """Negative control."""
    publisher.publish()
    node = start_node(module="tests.edge.drivers.no_limits")
    node.wait_version(1)
    faults = " ".join(_faults(_attacked(node, 200)))
    for kind in ("http silent", "http slow headers", "http slow body", "http idle", "grpc silent", "grpc no call"):
        assert kind in faults
    assert "descriptors" in faults
