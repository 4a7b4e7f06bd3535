"""P5 over HTTP: a real node process and its child, and an origin that is a hostile web server."""

import gzip
import shutil
import threading
from collections.abc import Callable
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.edge.conftest import NodeProcess, Publisher, StartNode
from tests.edge.victim import World, make_world, victim

pytestmark = pytest.mark.proof
GROWTH_MB = 64


class Hostile(ThreadingHTTPServer):
    """Serves a folder, but for one path that it answers as its `trick` does."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.path, self.asked = folder, "", 0
        self.trick: Callable[[SimpleHTTPRequestHandler], None] = SimpleHTTPRequestHandler.do_GET
        super().__init__(("127.0.0.1", 0), _Handler)
        threading.Thread(target=self.serve_forever, args=[0.05], daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that breaks off is what this is about."""

    def close(self) -> None:
        self.shutdown()
        self.server_close()


class _Handler(SimpleHTTPRequestHandler):
    server: Hostile

    def translate_path(self, path: str) -> str:
        return str(self.server.folder / path.lstrip("/"))

    def do_GET(self) -> None:
        self.server.asked += 1
        if self.server.path and self.server.path in self.path:
            self.server.trick(self)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def endless(handler: SimpleHTTPRequestHandler) -> None:
    """Bytes without end, as a stream without a length."""
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" " * (1 << 16))


def gzip_bomb(handler: SimpleHTTPRequestHandler) -> None:
    """A small answer that says it unpacks to 200 MB."""
    data = gzip.compress(bytes(200 << 20), 9)
    handler.send_response(200)
    handler.send_header("Content-Encoding", "gzip")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def many_headers(handler: SimpleHTTPRequestHandler) -> None:
    handler.send_response(200)
    for number in range(5000):
        handler.send_header(f"X-{number}", "x" * 1000)
    handler.end_headers()


def redirect_to(url: str) -> Callable[[SimpleHTTPRequestHandler], None]:
    def trick(handler: SimpleHTTPRequestHandler) -> None:
        handler.send_response(302)
        handler.send_header("Location", url + handler.path)
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    return trick


def test_a_hostile_web_server_changes_nothing(
    publisher: Publisher, start_node: StartNode, tell: Callable[[str, str], None]
) -> None:
    publisher.publish(seed=1)
    wanted = publisher.folder / "wanted"
    wanted.write_text("1")
    origin, elsewhere = Hostile(publisher.releases), Hostile(publisher.releases)
    tricks = (
        ("timestamp.json", endless, {"bad_metadata"}),
        ("timestamp.json", gzip_bomb, {"bad_metadata"}),
        ("timestamp.json", many_headers, {"unreachable"}),
        ("timestamp.json", redirect_to(elsewhere.url), {"redirected"}),
        ("releases.json", endless, {"wrong_digest", "bad_metadata"}),
        ("2.root.json", endless, {"bad_metadata"}),
        ("model.bin", redirect_to(elsewhere.url), {"redirected"}),
        ("model.bin", gzip_bomb, {"wrong_digest"}),
        ("model.bin", endless, {"wrong_digest"}),
    )
    try:
        node = start_node("--version-file", str(wanted), "--releases", origin.url)
        node.wait_version(1)
        before = _resident_mb(node)
        for number, (path, trick, reasons) in enumerate(tricks, 2):
            publisher.publish(seed=2)  # and each time there is something new to read
            origin.path, origin.trick = path, trick
            wanted.write_text(str(number))  # another one each time: the node asks at once
            assert _told(node, number, reasons)["active"]["version"] == 1
        assert elsewhere.asked == 0
        grown = _resident_mb(node) - before
        assert grown <= GROWTH_MB
        origin.path = ""
        newest = publisher.publish(seed=3)
        wanted.write_text(str(newest))
        node.wait_version(newest)
    finally:
        origin.close()
        elsewhere.close()
    tell("P5", f"{len(tricks)} tricks of a web server against a node process: refused, memory +{grown:.0f} MB")


def test_a_redirect_that_is_followed_reaches_the_other_host(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: urllib3 would follow, and the release comes from elsewhere."""
    import urllib3

    forger, node = victim(world, tmp_path, monkeypatch, wanted=7)
    elsewhere = Hostile(tmp_path / "copy")
    shutil.copytree(forger.origin, elsewhere.folder)
    origin = Hostile(forger.origin)
    origin.path, origin.trick = "model.bin", redirect_to(elsewhere.url)
    asked = urllib3.PoolManager.request
    monkeypatch.setattr(
        urllib3.PoolManager, "request", lambda self, *a, redirect, **kw: asked(self, *a, redirect=True, retries=3, **kw)
    )
    node.follow(origin.url, wanted=2)
    node.look(lambda: node.version == 2)
    assert elsewhere.asked == 1
    node.close()
    origin.close()
    elsewhere.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def _told(node: NodeProcess, wanted: int, reasons: set[str]) -> dict[str, Any]:
    """The status once the node has said why it does not take the wanted release."""
    return node.wait(lambda s: s["desired"]["version"] == wanted and s["last_event"]["reason"] in reasons, 20)


def _resident_mb(node: NodeProcess) -> float:
    assert node.process is not None
    status = Path(f"/proc/{node.process.pid}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmRSS")).split()[1]) / 1024
