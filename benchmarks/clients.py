"""Lean clients of the v2 protocol: what they cost themselves is counted as the server's."""

import json
import random
import socket
import threading
import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

DEEP = 96  # connections of an open load: more than the burst that a node lets in


class HttpClient:
    """One connection that sends one request again and again, with the binary extension."""

    def __init__(self, address: str, model: str, data: NDArray[np.uint8] | bytes) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if isinstance(data, bytes):
            datatype, shape, raw = "BYTES", [1], len(data).to_bytes(4, "little") + data
        else:
            datatype, shape, raw = "UINT8", list(data.shape), data.tobytes()
        one = {"name": "image", "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        outputs = [{"name": "logits", "parameters": {"binary_data": True}}]
        text = json.dumps({"inputs": [one], "outputs": outputs}).encode()
        head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nHost: x\r\nContent-Type: application/octet-stream\r\n"
        head += f"Inference-Header-Content-Length: {len(text)}\r\nContent-Length: {len(text) + len(raw)}\r\n\r\n"
        self._message = head.encode() + text + raw
        self.body = b""

    def ask(self) -> int:
        """Send, and read the whole answer; gives its status."""
        self._socket.sendall(self._message)
        answer = b""
        while b"\r\n\r\n" not in answer:
            part = self._socket.recv(1 << 16)
            if not part:
                raise ConnectionError("the server ended the connection")
            answer += part
        head, _, self.body = answer.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
        while len(self.body) < length:
            self.body += self._socket.recv(1 << 16)
        return int(lines[0].split()[1])

    def close(self) -> None:
        """End the connection."""
        self._socket.close()

    def release(self) -> str:
        """The version that answered last."""
        return str(json.loads(self.body[: self.body.index(b"}]}") + 3])["model_version"])


def gaps(rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Seconds between arrivals that come at random, `rate` a second."""
    return [random.Random(f"{seed}-{i}").expovariate(rate) for i in range(int(rate * seconds))]


@dataclass
class Answered:
    """What came of an open load."""

    ms: list[float] = field(default_factory=list)  # from arrival to answer, of those with status 200
    refused_ms: list[float] = field(default_factory=list)  # of those with 429, from sending
    ends: list[float] = field(default_factory=list)  # time.perf_counter() of the answers in `ms`
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Good answers a second."""
        return len(self.ms) / self.seconds

    @property
    def longest_gap_ms(self) -> float:
        """The longest time in which no good answer came."""
        return float(np.diff(np.sort(self.ends)).max() * 1e3)


def open_load(clients: list[HttpClient], between: list[float]) -> Answered:
    """Requests that arrive when they arrive, whatever became of those before."""
    seen, lock, began = Answered(), threading.Lock(), time.perf_counter()
    arrivals = iter(np.cumsum(between) + began)

    def work(client: HttpClient) -> None:
        while True:
            with lock:
                arrival = next(arrivals, None)
            if arrival is None:
                return
            time.sleep(max(0.0, arrival - time.perf_counter()))
            sent = time.perf_counter()
            try:
                status = client.ask()
            except (OSError, StopIteration) as error:
                seen.failures.append(repr(error))
                return
            end = time.perf_counter()
            if status == 200:
                seen.ms.append((end - arrival) * 1e3)
                seen.ends.append(end)
            elif status == 429:
                seen.refused_ms.append((end - sent) * 1e3)
            else:
                seen.failures.append(f"status {status}: {client.body[:100]!r}")

    threads = [threading.Thread(target=work, args=(client,)) for client in clients]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen.seconds = time.perf_counter() - began
    return seen
