"""An origin over HTTP that counts what it is asked and what it sends, and a line to it that can be made bad."""

import contextlib
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

SMALL_BUFFER = 4096  # bytes under way in a socket; the system's default would hide 2 MB from every count


class OriginServer(ThreadingHTTPServer):
    """Serves a folder on loopback, with ranges. `asked` counts requests by path, `sent` the bytes of bodies by path."""

    daemon_threads = True

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.folder = folder
        self.asked: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.ranges: list[str] = []
        super().__init__(("127.0.0.1", port), _Handler)
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that breaks off is what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: OriginServer

    def setup(self) -> None:
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        super().setup()

    def do_GET(self) -> None:
        self.server.asked[self.path] += 1
        file = self.server.folder / self.path.lstrip("/")
        if not file.is_file():
            self.send_error(404)
            return
        data, start = file.read_bytes(), 0
        asked = self.headers.get("Range", "")
        if asked:
            self.server.ranges.append(asked)
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        for at in range(start, len(data), 1024):
            block = data[at : at + 1024]
            self.wfile.write(block)
            self.server.sent[self.path] += len(block)

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


class BadLine:
    """A TCP proxy on loopback in front of an origin. Set its faults at any time; connections end at `close`.

    Args:
        target: port of the origin on loopback.
    """

    def __init__(self, target: int, generator: random.Random) -> None:
        self.target, self._generator = target, generator
        self.mode = "open"  # "drop": accepts and says nothing; "half-open": stops in the middle; "reject": refuses
        self.delay_s = 0.0  # before the first byte of an answer
        self.bytes_per_s = 0.0  # 0: as fast as it can
        self.breaks_after: Callable[[random.Random], int] | None = None  # bytes of the answer before a reset
        self.broken = 0
        self.carried = 0  # bytes of answers, headers too, that reached the client's side
        self._open: list[socket.socket] = []
        self._listener: socket.socket | None = None
        self.port = 0
        self._listen()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _listen(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=[self._listener], daemon=True).start()

    def cut(self, mode: str) -> None:
        """Break what is open; from now on connections are treated as `mode` says."""
        self.mode = mode
        for one in self._open:
            _reset(one)
        self._open.clear()
        if mode == "reject" and self._listener is not None:
            self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        elif mode != "reject" and self._listener is None:
            self._listen()

    def close(self) -> None:
        self.cut("reject")

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client = listener.accept()[0]
                self._open.append(client)
                threading.Thread(target=self._carry, args=[client], daemon=True).start()

    def _carry(self, client: socket.socket) -> None:
        if self.mode == "drop":
            return
        origin = socket.socket()
        origin.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        with contextlib.suppress(OSError):
            origin.connect(("127.0.0.1", self.target))
            self._open.append(origin)
            threading.Thread(target=_pump, args=[client, origin], daemon=True).start()
            time.sleep(self.delay_s)
            self._answer(origin, client)
        _reset(client)
        _reset(origin)

    def _answer(self, origin: socket.socket, client: socket.socket) -> None:
        left = self.breaks_after(self._generator) if self.breaks_after else None
        while block := origin.recv(1024 if left is None else max(1, min(1024, left))):
            if self.mode == "half-open":
                time.sleep(3600)  # nobody says that the other side is gone
            if self.bytes_per_s:
                time.sleep(len(block) / self.bytes_per_s)
            client.sendall(block)
            self.carried += len(block)
            if left is not None:
                left -= len(block)
                if left <= 0:
                    self.broken += 1
                    time.sleep(0.01)  # a reset would take from the client what it has not read yet
                    return


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while block := source.recv(65536):
            sink.sendall(block)
        sink.shutdown(socket.SHUT_WR)


def _reset(one: socket.socket) -> None:
    with contextlib.suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
