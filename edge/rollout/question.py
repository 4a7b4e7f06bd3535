"""One question to a pod, whoever answers there: bounded in time and bytes, and no further than this address.

A pod's answer is not to be trusted: one that drips a byte a second, never ends or points elsewhere must neither hold
nor fill the controller, which asks all the others too. HTTP libraries limit each read, not the whole.
"""

import contextlib
import json
import socket
import ssl
import time
from typing import Any

import httptools

BYTES = 1 << 20  # of an answer, its headers included
_PIECE = 1 << 16


class _Answer:
    """What the parser finds. It calls these by name."""

    def __init__(self) -> None:
        self.body, self.is_whole = bytearray(), False

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.is_whole = True


def ask(
    address: str, port: int, path: str, *, timeout_s: float, tls: ssl.SSLContext | None = None
) -> dict[str, Any] | None:
    """The JSON object that GET `path` gives with status 200; None: there is none within `timeout_s`, or it is too long.

    Args:
        address: of the pod; IPv4 or IPv6.
        port: its port.
        path: begins with a slash.
        timeout_s: of everything together.
        tls: whom to trust; None: plain HTTP.
    """
    ends = time.monotonic() + timeout_s
    host = f"[{address}]" if ":" in address else address
    asked = f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    try:
        with contextlib.ExitStack() as closing:
            connection = closing.enter_context(socket.create_connection((address, port), timeout_s))
            if tls:
                connection.settimeout(_left(ends))  # of the whole handshake
                connection = closing.enter_context(tls.wrap_socket(connection))
            connection.settimeout(_left(ends))
            connection.sendall(asked.encode())
            body = _read(connection, ends)
        document = json.loads(body) if body is not None else None
    except (OSError, httptools.HttpParserError, ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None


def _read(connection: socket.socket, ends: float) -> bytes | None:
    """The body of an answer of status 200. Raises OSError and HttpParserError."""
    answer, left = _Answer(), BYTES
    parser = httptools.HttpResponseParser(answer)
    while not answer.is_whole:
        connection.settimeout(_left(ends))
        piece = connection.recv(min(_PIECE, left))
        left -= len(piece)
        if not piece or not left:
            return None
        parser.feed_data(piece)
    return bytes(answer.body) if parser.get_status_code() == 200 else None


def _left(ends: float) -> float:
    left = ends - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left
