"""Requests, responses and limits of the node's HTTP server."""

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

_PHRASES = {status.value: status.phrase for status in HTTPStatus}


@dataclass(frozen=True)
class Limits:
    """What one client, and all of them together, may hold."""

    connections: int = 256
    header_bytes: int = 16 << 10
    body_bytes: int = 64 << 20
    held_bytes: int = 128 << 20  # bodies of all connections together
    header_s: float = 10.0  # from the first byte of a request to the end of its headers
    body_s: float = 10.0  # beside the time that the body takes at the slowest rate
    body_rate: float = 50e3  # bytes a second
    idle_s: float = 75.0  # between two requests
    stall_s: float = 10.0  # a reader that takes nothing


@dataclass(frozen=True)
class Request:
    """One whole request."""

    method: str
    path: str
    headers: Mapping[str, str]  # by lower-case name
    body: bytes


@dataclass(frozen=True)
class Response:
    """One answer."""

    body: bytes
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)  # with its Content-Type

    @staticmethod
    def json(document: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> "Response":
        """A JSON answer."""
        return Response(
            json.dumps(document).encode(), status, {"Content-Type": "application/json"} | dict(headers or {})
        )

    def head(self, *, keep: bool) -> bytes:
        """The status line and the headers; `keep`: the connection stays open."""
        lines = [
            f"HTTP/1.1 {self.status} {_PHRASES.get(self.status, '')}",
            f"Content-Length: {len(self.body)}",
            *(f"{name}: {value}" for name, value in self.headers.items()),
            *(() if keep else ("Connection: close",)),
        ]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


Gate = Callable[[str, Mapping[str, str]], Response | None]  # path and headers -> a refusal
Handler = Callable[[Request], Awaitable[Response]]
