"""The node's HTTP server by itself, in this process, with raw connections."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from edge.node.http_messages import Gate, Handler, Limits, Request, Response
from edge.node.http_server import HttpServer

LIMITS = Limits(header_s=0.4, body_s=0.4)
CHUNKED = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _length(request: Request) -> Response:
    return Response.json(len(request.body))


def with_server(
    talk: Callable[[HttpServer, Streams], Awaitable[None]],
    *,
    handler: Handler = _length,
    gate: Gate = lambda path, headers: None,
) -> None:
    """Talk to a server over one connection."""

    async def run() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        server = HttpServer(handler, LIMITS, gate)
        await server.start(listener)
        streams = await asyncio.open_connection(*listener.getsockname())
        try:
            await asyncio.wait_for(talk(server, streams), 20)
        finally:
            streams[1].close()
            await server.stop(0)

    asyncio.run(run())


@pytest.mark.parametrize("trailer", [b"a: b\r\n", b"a"], ids=["many", "one without an end"])
def test_trailers_are_neither_kept_nor_without_an_end(trailer: bytes) -> None:
    async def talk(server: HttpServer, streams: Streams) -> None:
        reader, writer = streams
        writer.write(CHUNKED + b"3\r\nabc\r\n0\r\n" + (b"a: " if trailer == b"a" else b""))
        writer.write(trailer * (1 << 20))
        assert b" 431 " in await reader.readline()
        assert all(len(one._headers) < 5 for one in server.connections)

    with_server(talk)


def test_a_trailer_is_allowed() -> None:
    async def talk(server: HttpServer, streams: Streams) -> None:
        reader, writer = streams
        writer.write(CHUNKED + b"3\r\nabc\r\n0\r\nContent-Type: odd\r\n\r\n")
        assert b" 200 " in await reader.readline()

    with_server(talk)


def test_a_body_in_many_small_pieces_is_no_header() -> None:
    async def talk(server: HttpServer, streams: Streams) -> None:
        reader, writer = streams
        writer.write(CHUNKED + b"1\r\na\r\n" * 20_000 + b"0\r\n\r\n")
        assert b" 200 " in await reader.readline()
        assert b"20000" in await reader.read(1 << 16)

    with_server(talk)


def test_the_gate_refuses_before_the_body() -> None:
    async def talk(server: HttpServer, streams: Streams) -> None:
        reader, writer = streams
        writer.write(b"POST /closed HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n" + b"x" * 1000)
        assert b" 401 " in await reader.readline()
        assert server.held == 0

    with_server(talk, gate=lambda path, headers: Response(b"", 401) if path == "/closed" else None)


def test_a_whole_request_that_waits_for_the_one_before_it_has_no_deadline() -> None:
    async def slow(request: Request) -> Response:
        await asyncio.sleep(1)
        return Response.json(request.path)

    async def talk(server: HttpServer, streams: Streams) -> None:
        reader, writer = streams
        for path in (b"/one", b"/two"):
            writer.write(b"POST " + path + b" HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\nx")
            await asyncio.sleep(0.1)
        assert b"/one" in await reader.readuntil(b'"/one"')
        assert b"/two" in await reader.readuntil(b'"/two"')

    with_server(talk, handler=slow)
