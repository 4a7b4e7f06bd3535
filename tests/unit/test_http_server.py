"""The node's HTTP server, byte by byte, in this process."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import pytest

from edge.node.http_messages import Limits, Request, Response
from edge.node.http_server import HttpServer

SMALL = Limits(connections=4, header_bytes=500, body_bytes=1000, held_bytes=1500, header_s=0.2, body_s=0.2, idle_s=0.4)
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[bytes]]


async def _echo(request: Request) -> Response:
    await asyncio.sleep(0.01)
    if request.path == "/fault":
        raise ValueError("/a/path/of/this/machine")
    return Response(f"{request.method} {request.path} {len(request.body)};".encode())


async def _served(talk: Talk, limits: Limits) -> bytes:
    listener = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(_echo, limits)
    await server.start(listener)
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    try:
        return await talk(reader, writer)
    finally:
        writer.transport.abort()
        await server.stop()
        await asyncio.sleep(0)
        assert server.held == 0


def _sent(data: bytes, *, limits: Limits = SMALL) -> bytes:
    """All that the server answers to these bytes until it ends the connection."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(data)
        return await asyncio.wait_for(reader.read(-1), 5)

    return asyncio.run(_served(talk, limits))


CASES = {
    "an answer, then idle": (b"GET /a%20b?c HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 200 OK", b"GET /a b 0;"),
    "HTTP/1.0": (b"GET / HTTP/1.0\r\n\r\n", b"200 OK", b"Connection: close"),
    "chunks": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", b"200 OK", b"POST / 3;"),
    "asks before it sends": (
        b"POST / HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n",
        b"100 Continue",
        b"408",
    ),
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"HTTP/1.1 400", b"no HTTP/1.1 request"),
    "two lengths": (b"GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", b"400", b"error"),
    "headers without end": (b"GET / HTTP/1.1\r\nX: " + b"x" * 600, b"431", b"over 500 bytes"),
    "slow headers": (b"GET / HT", b"408", b"in time"),
    "slow body": (b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\nabc", b"408", b"in time"),
    "a long body": (b"POST / HTTP/1.1\r\nContent-Length: 1001\r\n\r\n", b"413", b"over 1000 bytes"),
    "long chunks": (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfff\r\n" + b"a" * 1100, b"413", b"error"),
    "an offer to upgrade": (b"GET / HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", b"200 OK", b"GET / 0;"),
    "a fault": (b"GET /fault HTTP/1.1\r\n\r\n", b"HTTP/1.1 500", b"its log says more"),
}


@pytest.mark.parametrize("case", CASES)
def test_answers_and_ends(case: str) -> None:
    data, status, body = CASES[case]
    answer = _sent(data)
    assert status in answer
    assert body in answer
    assert b"/a/path" not in answer


def test_requests_sent_at_once_are_answered_in_order() -> None:
    answer = _sent(b"".join(b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(5)))
    assert [answer.index(b"GET /%d" % number) for number in range(5)] == sorted(
        answer.index(b"GET /%d" % number) for number in range(5)
    )


def test_head_has_no_body() -> None:
    answer = _sent(b"HEAD / HTTP/1.1\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"Content-Length: 9" in answer


def test_half_a_connection_still_gets_its_answer() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        writer.write_eof()
        return await asyncio.wait_for(reader.read(-1), 5)

    assert b"GET / 0;" in asyncio.run(_served(talk, SMALL))


def test_bodies_of_all_clients_together_have_a_limit() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        address = writer.get_extra_info("peername")
        head = b"POST / HTTP/1.1\r\nContent-Length: 1000\r\n\r\n"
        writer.write(head + b"a" * 900)
        await asyncio.sleep(0.05)
        other, second = await asyncio.open_connection(*address)
        second.write(head + b"a" * 900)
        answer = await asyncio.wait_for(other.read(-1), 5)
        second.transport.abort()
        return answer

    assert b"429" in asyncio.run(_served(talk, SMALL))


@pytest.mark.parametrize("connections", [4, 100])
def test_newcomers_drive_out_who_did_nothing_and_not_who_was_answered(connections: int) -> None:
    """With room for all (the control) nobody is driven out."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bytes:
        address = writer.get_extra_info("peername")
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        first = await reader.readuntil(b";")
        silent = [await asyncio.open_connection(*address) for _ in range(6)]
        await asyncio.sleep(0.05)
        writer.write(b"GET / HTTP/1.1\r\n\r\n")
        await asyncio.wait_for(reader.readuntil(b";"), 5)
        ended = [one.at_eof() or one.exception() is not None for one, _ in silent]
        for _, other in silent:
            other.transport.abort()
        return first + b"%d ended" % sum(ended)

    expected = b"3 ended" if connections == 4 else b"0 ended"
    assert expected in asyncio.run(_served(talk, Limits(connections=connections)))
