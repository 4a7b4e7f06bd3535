"""What a pod answers may be anything: the question has an end, in time and in bytes."""

import resource
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import pytest

from edge.rollout.nodes import _told
from edge.rollout.question import BYTES, ask

TIMEOUT_S = 1.0
GOOD = b'{"state": "serving"}'


def answer(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, "", ""]).encode() + body


def sized(body: bytes, status: str = "200 OK") -> bytes:
    return answer(body, f"Content-Length: {len(body)}", status=status)


@contextmanager
def pod(behave: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port behind which somebody behaves so, once a connection."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    with connection, suppress(OSError):
                        connection.recv(4096)
                        behave(connection)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)
    thread.join(10)


def says(data: bytes) -> Callable[[socket.socket], None]:
    return lambda connection: connection.sendall(data)


def drips(head: bytes, drop: bytes) -> Callable[[socket.socket], None]:
    """A little, and again a little, for much longer than anybody waits."""

    def behave(connection: socket.socket) -> None:
        connection.sendall(head)
        for _ in range(100):
            connection.sendall(drop)
            time.sleep(0.1)

    return behave


def floods(head: bytes, drop: bytes) -> Callable[[socket.socket], None]:
    def behave(connection: socket.socket) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(drop)

    return behave


def asked(behave: Callable[[socket.socket], None]) -> dict[str, object] | None:
    with pod(behave) as port:
        return ask("127.0.0.1", port, "/status", timeout_s=TIMEOUT_S)


CHUNKED = answer(b"", "Transfer-Encoding: chunked")


def test_an_answer_is_taken_whole() -> None:
    assert asked(says(sized(GOOD))) == {"state": "serving"}
    assert asked(says(CHUNKED + b"5\r\n" + GOOD[:5] + b"\r\nf\r\n" + GOOD[5:] + b"\r\n0\r\n\r\n")) == {
        "state": "serving"
    }


@pytest.mark.parametrize(
    "behave",
    [
        drips(b"", b"H"),
        drips(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
        drips(answer(b"", "Content-Length: 100"), b" "),
        drips(b"", answer(b"", status="100 Continue")),
        drips(CHUNKED, b"1\r\n \r\n"),
        drips(CHUNKED + b"0\r\n", b"X: y\r\n"),
        lambda connection: time.sleep(3),
    ],
    ids=["status", "headers", "body", "continue", "chunks", "trailers", "silence"],
)
def test_one_that_drips_is_left(behave: Callable[[socket.socket], None]) -> None:
    began = time.monotonic()
    assert asked(behave) is None
    assert time.monotonic() - began < 5 * TIMEOUT_S, "it was waited for as long as it dripped"


@pytest.mark.parametrize(
    ("head", "drop"),
    [
        (b"HTTP/1.1 200 OK\r\nX: ", b"y" * 65536),
        (CHUNKED, b"0" * 65536),
        (CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n"),
        (answer(b"", "Content-Length: 99999999999"), b" " * 65536),
    ],
    ids=["header", "chunk size", "chunks", "length"],
)
def test_one_that_never_ends_fills_nothing(head: bytes, drop: bytes) -> None:
    before_kb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert asked(floods(head, drop)) is None
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before_kb < 32 * BYTES / 1024


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x16\x03\x01 this is no HTTP",
        sized(GOOD, "503 Service Unavailable"),
        answer(b"", "Location: http://127.0.0.1:1/", "Content-Length: 0", status="302 Found"),
        answer(GOOD, "Content-Length: -1"),
        answer(GOOD, "Content-Length: many"),
        sized(b"[1]"),
        sized(b"{"),
        sized(b"[" * 100_000),
        sized(b"\xff\xfe"),
        sized(b'{"version": ' + b"9" * 5000 + b"}"),
    ],
)
def test_what_is_no_answer_is_none(data: bytes) -> None:
    assert asked(says(data)) is None


def test_a_status_is_cut_down_to_what_a_node_says() -> None:
    status = {
        "state": "ser\x1b[2Jving",
        "refused": "x" * 10_000,
        "active": {"version": 3, "name": "demo", "more": "y" * 10_000},
        "desired": {"version": 10**4000},
        "else": "z",
    }
    told = _told(status)
    assert told is not None
    assert told["state"] == "ser[2Jving"
    assert len(told["refused"]) == 100
    assert told["active"] == {"name": "demo", "version": 3}
    assert told["desired"] is None
    assert set(told) == {"state", "refused", "active", "desired"}


def test_what_no_node_says_is_no_answer() -> None:
    assert _told({}) is None
    assert _told({"state": "serving", "active": None, "desired": None}) is None
