"""A small HTTP/1.1 server: one object a connection, parsed by httptools, with a limit on everything a client can hold.

Measured against starlette, uvicorn and granian in docs/serving.md. One request of a connection is answered at a time.
"""

import asyncio
import logging
import socket
import ssl
from collections import deque
from typing import cast
from urllib.parse import unquote

import httptools

from edge.node.http_messages import Gate, Handler, Limits, Request, Response

_log = logging.getLogger("edge.node")
_PIPELINED = 16  # requests that a client may send before their answers
_LINGER_S = 1.0  # a refused client may finish reading its answer


class HttpServer:
    """Answers with `handler` on a bound socket. A handler that raises is a 500 without a word of why.

    `gate` sees a request's path and headers, and may refuse it before its body is read.
    """

    def __init__(self, handler: Handler, limits: Limits | None = None, gate: Gate = lambda path, headers: None) -> None:
        self.handler, self.limits, self.gate = handler, limits or Limits(), gate
        self.connections: set[_Connection] = set()
        self.held = 0  # bytes of bodies
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> None:
        """Accept connections."""
        loop = asyncio.get_running_loop()
        handshake_s = self.limits.header_s if tls else None
        self._server = await loop.create_server(
            lambda: _Connection(self), sock=listener, ssl=tls, ssl_handshake_timeout=handshake_s, backlog=512
        )
        self._sweeper = asyncio.create_task(self._sweep())

    async def stop(self, grace_s: float = 5.0) -> None:
        """Accept no more, let the requests under way end, then close."""
        assert self._server is not None
        assert self._sweeper is not None
        self._server.close()
        self._sweeper.cancel()
        ends = asyncio.get_running_loop().time() + grace_s
        while any(one.busy for one in self.connections) and asyncio.get_running_loop().time() < ends:
            await asyncio.sleep(0.01)
        for one in list(self.connections):
            one.close()

    def room(self) -> bool:
        """Whether a new connection may stay; at the limit the one that did least for longest gives way."""
        if len(self.connections) < self.limits.connections:
            return True
        idle = [one for one in self.connections if not one.busy]
        if not idle:
            return False
        # Those that never finished a request go first: a flood of them does not drive out a client that works.
        min(idle, key=lambda one: (one.answered > 0, one.since)).abort()
        return True

    async def _sweep(self) -> None:
        """End what is over its time, to the second: cheaper than a timer a request."""
        while True:
            await asyncio.sleep(min(1.0, self.limits.header_s / 4))
            now = asyncio.get_running_loop().time()
            for one in list(self.connections):
                if now > one.deadline:
                    one.expire()


class _Connection(asyncio.Protocol):
    """One client. httptools calls the `on_` methods from `feed_data`."""

    def __init__(self, server: HttpServer) -> None:
        self._server, self._limits = server, server.limits
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._parser = httptools.HttpRequestParser(self)
        self._queue: deque[tuple[Request, bool]] = deque()  # with whether the connection stays open
        self._task: asyncio.Task[None] | None = None
        self._deaf = False  # what still comes is thrown away
        self._stalled = False
        self._in_request = False
        self._begin()
        self.answered = 0
        self.since = self._loop.time()
        self.deadline = self.since + self._limits.header_s

    @property
    def busy(self) -> bool:
        """A request is being answered."""
        return self._task is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's are of no class of asyncio's
        has_room = self._server.room()
        self._server.connections.add(self)
        if not has_room:
            message = f"{self._limits.connections} connections are busy, the most this node takes; ask again later"
            self._write(Response.json({"error": message}, 503), keep=False)
            self.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._release(self._size)
        for request, _ in self._queue:
            self._release(len(request.body))
        self._queue.clear()
        if self._task:
            self._task.cancel()

    def data_received(self, data: bytes) -> None:
        if self._deaf:
            return
        self._head += len(data)  # of a header that never ends, or of trailers; on_body takes it off again
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade:  # not offered: the answer goes out as HTTP/1.1, then the connection ends
            self._deaf = True
        except httptools.HttpParserError as error:
            if not self._deaf:
                self._refuse(400, f"this is no HTTP/1.1 request: {type(error).__name__}")
            return
        if self._head > self._limits.header_bytes:
            self._refuse(431, f"the headers are over {self._limits.header_bytes} bytes")
        elif self._in_request and not self._headers_done and self._head == len(data):
            self._until(self._limits.header_s)

    def eof_received(self) -> bool:
        self._deaf = True
        # A client may close its half and still wait for its answer; TLS knows no half.
        return self.busy and self._transport.get_extra_info("sslcontext") is None

    def pause_writing(self) -> None:
        self._until(self._limits.stall_s)
        self._stalled = True  # whatever it sends, only reading keeps it from its end
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._stalled = False
        if self._transport.is_closing():
            return
        self._until(float("inf"))
        self._rest()

    def on_message_begin(self) -> None:
        self._in_request = True

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._headers_done:  # a trailer, which nothing here needs
            return
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._headers_done, self._head = True, 0
        refusal = None if self.busy else self._server.gate(self._path(), self._headers)
        if refusal is not None:
            self._turn_away(refusal)
            return
        size = self._headers.get("content-length", "0")
        length = int(size) if size.isdecimal() else 0  # else llhttp has refused it
        if length > self._limits.body_bytes:
            self._too_large()
            return
        self._until(self._limits.body_s + length / self._limits.body_rate)
        if self._headers.get("expect", "").lower() == "100-continue" and not self.busy:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, body: bytes) -> None:
        if self._deaf:
            return
        self._head = 0
        self._size += len(body)
        self._server.held += len(body)
        if self._size > self._limits.body_bytes:
            self._too_large()
        elif self._server.held > self._limits.held_bytes:
            self._refuse(429, "the requests under way fill this node's memory; ask again later")
        else:
            self._body.append(body)

    def on_message_complete(self) -> None:
        if self._deaf:
            return
        method = self._parser.get_method().decode("ascii")
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        request = Request(method, self._path(), self._headers, body)
        self._queue.append((request, self._parser.should_keep_alive()))
        self._begin()
        if self._task is None:
            self._until(float("inf"))  # the handler's time
            self._task = self._loop.create_task(self._answer())
        elif len(self._queue) > _PIPELINED:
            self._refuse(429, f"over {_PIPELINED} requests were sent before their answers")
        else:
            self._until(float("inf"))  # it is whole, and waits for the answer before its own
            self._transport.pause_reading()

    def expire(self) -> None:
        """A deadline has passed."""
        if self._deaf or self._stalled or not self._in_request:
            self.abort() if self._transport.get_write_buffer_size() else self.close()
        else:
            self._refuse(408, "the request did not arrive in time")

    def close(self) -> None:
        """End it when what was written has gone out."""
        self._deaf = True
        self._transport.close()
        self.deadline = self._loop.time() + self._limits.stall_s  # then it is aborted

    def abort(self) -> None:
        """End it now."""
        self._transport.abort()

    async def _answer(self) -> None:
        """The requests that came, one after another."""
        while self._queue and not self._transport.is_closing():
            request, keep = self._queue.popleft()
            try:
                response = await self._server.handler(request)
            except Exception:
                _log.exception("a request ended in a fault of the node")
                response = Response.json({"error": "a fault of this node; its log says more"}, 500)
            finally:
                self._release(len(request.body))
            self._write(response, keep=keep and not self._deaf, head_only=request.method == "HEAD")
            self.answered, self.since = self.answered + 1, self._loop.time()
            if not keep or self._deaf:
                self.close()
        self._task = None
        self._rest()

    def _rest(self) -> None:
        """Between two requests, or still reading one."""
        if self._stalled or self.busy or self._transport.is_closing():
            return
        self._transport.resume_reading()
        self._until(self._limits.body_s if self._in_request else self._limits.idle_s)

    def _write(self, response: Response, *, keep: bool, head_only: bool = False) -> None:
        head = response.head(keep=keep)
        self._transport.write(head if head_only else head + response.body)

    def _path(self) -> str:
        return unquote(self._url.partition(b"?")[0].decode("latin-1"))

    def _refuse(self, status: int, message: str) -> None:
        self._turn_away(Response.json({"error": message}, status))

    def _turn_away(self, response: Response) -> None:
        """Answer, read no more, and leave the client a moment to read it: unread bytes would reset the connection."""
        self._deaf = True
        if self.busy:  # an answer is due before this one
            return
        self._write(response, keep=False)
        self.deadline = self._loop.time() + _LINGER_S

    def _too_large(self) -> None:
        self._refuse(413, f"the body is over {self._limits.body_bytes} bytes")

    def _until(self, seconds: float) -> None:
        if not self._stalled:
            self.deadline = self._loop.time() + seconds

    def _begin(self) -> None:
        """Ready for the next request."""
        self._url, self._headers_done, self._head = b"", False, 0
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._size = 0
        self._in_request = False

    def _release(self, size: int) -> None:
        self._server.held -= size
