"""Whom the controller trusts behind the nodes' TLS: real handshakes with real certificates."""

import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edge.rollout import nodes, pin
from edge.rollout.nodes import NearAsker
from edgedistill.errors import ConfigError
from tests.unit.test_rollout_nodes import SERVING, a_pod


def openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)


class Authority:
    """Signs certificates."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.key, self.cert = folder / "ca.key", folder / "ca.crt"
        curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        self._curve = curve
        openssl("req", "-x509", *curve, "-days", 2, "-keyout", self.key, "-out", self.cert, "-subj", "/CN=authority")

    def sign(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of a node."""
        key, request, cert = (self.folder / f"{name}.{end}" for end in ("key", "csr", "crt"))
        openssl("req", *self._curve, "-new", "-keyout", key, "-out", request, "-subj", f"/CN={name}")
        signer = ("-CA", self.cert, "-CAkey", self.key, "-CAcreateserial")
        openssl("x509", "-req", "-in", request, *signer, "-days", 2, "-out", cert)
        return cert, key


@contextmanager
def node(cert: Path, key: Path) -> Iterator[int]:
    """A port that speaks TLS with this certificate, and answers as a node."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b'{"state": "serving", "active": {"version": 2}, "desired": {"version": 2}, "refused": ""}'
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:  # a client that does not trust it
            pass

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    server = Server(("127.0.0.1", 0), Handler)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def is_trusted(asker: NearAsker, cert: Path, key: Path, monkeypatch: pytest.MonkeyPatch) -> bool:
    with node(cert, key) as port:
        monkeypatch.setattr(nodes, "STATUS_PORT", port)
        answer = asker.ask(a_pod(podIP="127.0.0.1"), is_tls=True)
    assert answer in (None, SERVING)
    return answer is not None


def test_a_nodes_own_certificate_admits_nobody_whom_its_authority_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    ours, other = authority.sign("ours"), authority.sign("other")
    chain = tmp_path / "tls.crt"
    chain.write_text(ours[0].read_text() + authority.cert.read_text())
    for pinned in (chain, ours[0]):
        assert is_trusted(NearAsker(pinned), *ours, monkeypatch)
        assert not is_trusted(NearAsker(pinned), *other, monkeypatch)
    # The negative control: with the authority pinned the same handshake goes through.
    assert is_trusted(NearAsker(authority.cert), *other, monkeypatch)
    assert not is_trusted(NearAsker(None), *ours, monkeypatch)


def test_a_new_certificate_is_taken_and_the_old_one_lives_on_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = Authority(tmp_path)
    old, new = authority.sign("old"), authority.sign("new")
    path = tmp_path / "tls.crt"
    path.write_text(old[0].read_text())
    asker = NearAsker(path)
    assert not is_trusted(asker, *new, monkeypatch)
    path.write_text("half a certif")
    asker.refresh()
    assert is_trusted(asker, *old, monkeypatch), "a damaged file changes nothing"
    path.write_text(new[0].read_text())
    asker.refresh()
    assert is_trusted(asker, *new, monkeypatch)
    assert is_trusted(asker, *old, monkeypatch), "a kubelet that is a minute behind"
    monkeypatch.setattr(pin, "OVERLAP_S", 0.0)
    asker.refresh()
    assert is_trusted(asker, *new, monkeypatch)
    assert not is_trusted(asker, *old, monkeypatch)


def test_a_file_without_a_certificate_is_told(tmp_path: Path) -> None:
    path = tmp_path / "tls.crt"
    with pytest.raises(ConfigError, match=r"tls\.crt cannot be read"):
        NearAsker(path)
    for text in ("", "nothing", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="no PEM certificate"):
            NearAsker(path)
