"""The look at the origin's hint: it ends in time, however slowly the other side answers; what it leads to is spread."""

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
from edge.node.origin import RETURN_POLLS, Origin
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
        assert Origin(server.url, 1.0).has_news(is_asked=True)


class Turned:
    """An origin in a folder, on a clock that the test turns; every random pause is the longest."""

    def __init__(self, folder: Path) -> None:
        self.hint, self.now = folder / "metadata" / "timestamp.json", 0.0
        self.hint.parent.mkdir()
        self.hint.write_text("1")
        self.origin = Origin(str(folder), 1.0, clock=lambda: self.now, uniform=lambda low, high: high)

    def has_news(self, second: float, *, is_asked: bool = False) -> bool:
        self.now = second
        return self.origin.has_news(is_asked=is_asked)

    def fail(self, second: float, *, is_asked: bool = False) -> None:
        """The hint is not to be had in one look; after it there is another one."""
        said = self.hint.read_text()
        self.hint.unlink()
        with pytest.raises(Unreachable):
            self.has_news(second, is_asked=is_asked)
        self.origin.failed()
        self.hint.write_text(said)

    def check(self, second: float) -> None:
        assert self.has_news(second, is_asked=True)
        self.origin.answered()


def test_after_a_start_the_first_check_waits_unless_somebody_asks(tmp_path: Path) -> None:
    turned = Turned(tmp_path)
    assert [turned.has_news(s) for s in (0, RETURN_POLLS - 1, RETURN_POLLS)] == [False, False, True]
    assert turned.has_news(1, is_asked=True)


def test_news_waits_after_an_outage_only(tmp_path: Path) -> None:
    turned = Turned(tmp_path)
    turned.check(0)
    turned.hint.write_text("2")
    assert turned.has_news(1), "nobody was away"
    turned.check(1)
    turned.fail(2)
    turned.hint.write_text("3")
    assert [turned.has_news(s) for s in (4, 4 + RETURN_POLLS - 1, 4 + RETURN_POLLS)] == [False, False, True]


def test_an_outage_without_news_costs_no_check(tmp_path: Path) -> None:
    turned = Turned(tmp_path)
    turned.check(0)
    turned.fail(2)
    assert not any(turned.has_news(s) for s in (4, 40, 400))
    turned.fail(500)
    turned.hint.write_text("2")
    turned.has_news(502)
    assert turned.has_news(502 + RETURN_POLLS), "the pause after a failure begins small again"


def test_what_was_asked_for_is_checked_after_an_outage(tmp_path: Path) -> None:
    turned = Turned(tmp_path)
    turned.check(0)
    turned.fail(2, is_asked=True)
    assert [turned.has_news(s) for s in (4, 4 + RETURN_POLLS)] == [False, True]


def test_a_check_that_failed_is_tried_again_after_its_pause(tmp_path: Path) -> None:
    turned = Turned(tmp_path)
    turned.check(0)
    assert turned.has_news(2, is_asked=True)
    turned.origin.failed()
    assert [turned.has_news(s) for s in (3, 4)] == [False, True]
