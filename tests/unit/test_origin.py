"""The look at the origin's hint ends in time, however slowly the other side connects, agrees on TLS or answers."""

import contextlib
import http.client
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.node import origin as module
from edge.node.catalog import Unreachable
from edge.node.origin import Origin
from tests.edge.test_access import certificate

LIMIT_S = 0.5  # of the look, in these tests
LATE_S = 1.5 * LIMIT_S
PATIENCE_S = 4.0  # then the server ends by itself: a test that fails does not hang
HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n"
ENDS = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"


class Dripping:
    """A server whose answer, if it has any, begins at once and then goes on by one byte every 50 ms."""

    def __init__(self, begins: bytes, tls: ssl.SSLContext | None = None) -> None:
        self._begins, self._tls = begins, tls
        self._ending = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def close(self) -> None:
        self._ending.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with contextlib.suppress(OSError), self._listener.accept()[0] as line:
            self._answer(self._tls.wrap_socket(line, server_side=True) if self._tls else line)

    def _answer(self, line: socket.socket) -> None:
        with line:
            line.recv(4096)
            line.sendall(self._begins)
            ends = time.monotonic() + PATIENCE_S
            while time.monotonic() < ends and not self._ending.wait(0.05):
                line.sendall(b"x" if self._begins else b"")


@pytest.fixture(autouse=True)
def limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "TIMEOUT_S", LIMIT_S)


@contextlib.contextmanager
def dripping(begins: bytes, tls: ssl.SSLContext | None = None) -> Iterator[Dripping]:
    server = Dripping(begins, tls)
    try:
        yield server
    finally:
        server.close()


def _connect_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """As over a bad line, where the first packets are lost."""
    connect = http.client.HTTPConnection.connect

    def late(self: http.client.HTTPConnection) -> None:
        time.sleep(LATE_S)
        connect(self)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", late)


def _ends_in_time(origin: Origin) -> None:
    begun = time.monotonic()
    with pytest.raises(Unreachable, match="the origin does not answer: "):
        origin.has_news(is_asked=True)
    assert time.monotonic() - begun < PATIENCE_S / 2


@pytest.mark.parametrize("begins", [HEAD + b"X-Slow: ", HEAD + b"\r\n"], ids=["header", "body"])
@pytest.mark.parametrize("is_late", [False, True])
def test_an_answer_that_drips_is_ended(begins: bytes, is_late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if is_late:
        _connect_late(monkeypatch)
    with dripping(begins) as server:
        _ends_in_time(Origin(server.url, 1.0))


@pytest.mark.parametrize("begins", [HEAD + b"X-Slow: ", HEAD + b"\r\n"], ids=["header", "body"])
@pytest.mark.parametrize("is_late", [False, True])
def test_an_answer_that_drips_over_tls_is_ended(
    begins: bytes, is_late: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_late:
        _connect_late(monkeypatch)
    cert, key = certificate(tmp_path, "origin")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(cert, key)
    with dripping(begins, tls) as server:
        _ends_in_time(Origin(server.url, 1.0, ca=cert))


def test_a_handshake_that_is_not_answered_is_ended() -> None:
    with dripping(b"") as server:
        _ends_in_time(Origin(server.url.replace("http:", "https:"), 1.0))


def test_a_line_that_connects_late_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    _connect_late(monkeypatch)
    with dripping(ENDS) as server:
        assert Origin(server.url, 1.0).has_news(is_asked=False)
