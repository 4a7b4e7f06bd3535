"""A token goes to the node that it is for, and to nobody else."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from edgedistill.errors import NodeError
from edgedistill.node_client import NodeClient


class Server(ThreadingHTTPServer):
    """Remembers who came with which token; sends everybody to `elsewhere`, or answers."""

    elsewhere = ""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.seen: list[tuple[str, str | None]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers["Authorization"]))
        self.send_response(302 if self.server.elsewhere else 200)
        if self.server.elsewhere:
            self.send_header("Location", self.server.elsewhere)
        self.end_headers()
        self.wfile.write(b'[{"name": "demo"}]')

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def servers() -> Iterator[tuple[Server, Server]]:
    """A node, and somebody else."""
    found = Server(), Server()
    threads = [threading.Thread(target=one.serve_forever) for one in found]
    for thread in threads:
        thread.start()
    yield found
    for one, thread in zip(found, threads, strict=True):
        one.shutdown()
        one.server_close()
        thread.join()


def test_the_node_gets_its_token(servers: tuple[Server, Server]) -> None:
    node, _ = servers
    assert NodeClient(node.address, "secret").models() == [{"name": "demo"}]
    assert node.seen == [("/v2/models", "Bearer secret")]


def test_a_redirect_is_an_error_and_not_followed(servers: tuple[Server, Server]) -> None:
    node, other = servers
    node.elsewhere = f"{other.address}/"
    with pytest.raises(NodeError, match="302"):
        NodeClient(node.address, "secret").models()
    assert other.seen == []


def test_a_proxy_of_the_environment_is_not_asked(
    servers: tuple[Server, Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, other = servers
    monkeypatch.setenv("http_proxy", other.address)
    monkeypatch.delenv("no_proxy", raising=False)
    assert NodeClient(node.address, "secret").models() == [{"name": "demo"}]
    assert other.seen == []
