"""Who may ask a node: loopback by default; beyond it a token and TLS, on both ports, reloaded when they change."""

import argparse
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from edge.node.access import Access, access_of, add_options, address
from edgedistill import signing
from edgedistill.errors import NodeError
from edgedistill.storage import open_store
from tests.edge.conftest import NodeProcess, Publisher, pictures

TOKEN, OTHER = "a" * 32, "b" * 32


def certificate(folder: Path, name: str) -> tuple[Path, Path]:
    """A self-made certificate for 127.0.0.1, and its key."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
        "-days",
        "2",
    ]
    command += [
        "-keyout",
        str(key),
        "-out",
        str(cert),
        "-subj",
        f"/CN={name}",
        "-addext",
        "subjectAltName=IP:127.0.0.1",
    ]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


def options(*arguments: str) -> Access:
    parser = argparse.ArgumentParser()
    add_options(parser)
    return access_of(parser.parse_args(arguments))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.1", "::1", "localhost"])
def test_loopback_needs_nothing(host: str) -> None:
    assert not options("--listen", host).needs_token


@pytest.mark.parametrize(("host", "told"), [("::1", "[::1]:8080"), ("127.0.0.1", "127.0.0.1:8080")])
def test_an_address_of_either_kind_can_be_listened_on(host: str, told: str) -> None:
    assert address(host, 8080) == told


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "edge.example"])
def test_beyond_loopback_needs_both_or_the_operators_word(host: str, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(f"{TOKEN}\n")
    cert, key = certificate(tmp_path, "one")
    tls = ["--tls-cert", str(cert), "--tls-key", str(key)]
    for given, missing in (([], "a token"), (["--token-file", str(token)], "TLS"), (tls, "a token")):
        with pytest.raises(NodeError, match=f"without {missing} would let everybody there ask"):
            options("--listen", host, *given)
    assert options("--listen", host, "--token-file", str(token), *tls).needs_token
    assert not options("--listen", host, "--trust-network").needs_token


@pytest.mark.parametrize("text", ["", "short", "two words of token", "täglich-neue-token"])
def test_a_weak_or_broken_token_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(text)
    with pytest.raises(NodeError, match="make one: openssl rand"):
        options("--token-file", str(tmp_path / "token"))
    with pytest.raises(NodeError, match="cannot be read"):
        options("--token-file", str(tmp_path / "absent"))


def test_files_that_are_no_certificate(tmp_path: Path) -> None:
    cert, _ = certificate(tmp_path, "one")
    _, key = certificate(tmp_path, "two")
    with pytest.raises(NodeError, match="no certificate with its key"):
        options("--tls-cert", str(cert), "--tls-key", str(key))
    with pytest.raises(NodeError, match="give both"):
        options("--tls-cert", str(cert))


def test_what_needs_no_token(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(TOKEN)
    access = options("--token-file", str(tmp_path / "token"))
    for path in ("/v2/health/live", "/v2/health/ready", "/v2/models/tiny/ready", "/status", "/metrics"):
        assert access.allows(path, {})
    for path in ("/v2/models/tiny/infer", "/v2/models/tiny", "/v2", "/statusx", "/v2/models/ready"):
        assert not access.allows(path, {})
        assert access.allows(path, {"authorization": f"Bearer {TOKEN}"})
        for wrong in ("Bearer", f"Bearer {OTHER}", f"Basic {TOKEN}", TOKEN, f"Bearer {TOKEN[:-1]}", "Bearer é"):
            assert not access.allows(path, {"authorization": wrong})


def test_a_half_written_token_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(TOKEN)
    access = options("--token-file", str(path))
    path.write_text("half")
    access.refresh()
    assert access.allows("/v2", {"authorization": f"Bearer {TOKEN}"})
    path.write_text(OTHER)
    access.refresh()
    assert access.allows("/v2", {"authorization": f"Bearer {OTHER}"})
    assert not access.allows("/v2", {"authorization": f"Bearer {TOKEN}"})
    path.unlink()
    access.refresh()
    assert not access.allows("/v2", {}), "a token that has gone does not open the node"


class Guarded:
    """A node on all addresses, with token and TLS."""

    def __init__(self, folder: Path) -> None:
        store = open_store(folder / "store")
        signing.init_repository(store, folder / "keys")
        publisher = Publisher(folder, store, folder / "keys")
        publisher.publish(seed=1)
        self.folder, self.token = folder, folder / "token"
        self.token.write_text(TOKEN)
        self.cert, self.key = certificate(folder, "one")
        guards = ["--token-file", str(self.token), "--tls-cert", str(self.cert), "--tls-key", str(self.key)]
        paths = ["--releases", str(publisher.releases), "--root", str(publisher.root), "--state", str(folder / "state")]
        ports = ["--http-port", "0", "--grpc-port", "0", "--poll-s", "0.1", "--listen", "0.0.0.0"]
        self.process = NodeProcess([*paths, "--name", "tiny", *ports, *guards]).start()
        self.http = f"https://127.0.0.1:{self.process.http.rpartition(':')[2]}"
        self.grpc = f"127.0.0.1:{self.process.grpc.rpartition(':')[2]}"
        wait(lambda: self.get("/v2/health/ready", None) == 200)

    def get(self, path: str, token: str | None, body: bytes | None = None, cert: Path | None = None) -> int:
        """The status of one request."""
        context = ssl.create_default_context(cafile=str(cert or self.cert))
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            request = urllib.request.Request(self.http + path, body, headers)
            with urllib.request.urlopen(request, timeout=10, context=context) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code

    def infer(self, token: str | None, cert: Path | None = None) -> int:
        """Classes that a gRPC answer has."""
        root = (cert or self.cert).read_bytes()
        client = grpc_client.InferenceServerClient(self.grpc, creds=grpc.ssl_channel_credentials(root))
        headers = {"authorization": f"Bearer {token}"} if token else None
        image = grpc_client.InferInput("image", [1, 8, 8, 3], "UINT8")
        image.set_data_from_numpy(pictures(1))
        try:
            assert client.is_server_live(), "health needs no token"
            answer = client.infer("tiny", [image], headers=headers).as_numpy("logits")
            assert isinstance(answer, np.ndarray)
            return answer.shape[1]
        finally:
            client.close()


def wait(is_there: Callable[[], bool], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if is_there():
                return
        except (OSError, InferenceServerException):
            pass
        assert time.monotonic() < deadline
        time.sleep(0.1)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    made = Guarded(tmp_path_factory.mktemp("guarded"))
    yield made
    made.process.kill()


def test_both_ports_want_the_token(guarded: Guarded) -> None:
    for path in ("/status", "/metrics", "/v2/health/live"):
        assert guarded.get(path, None) == 200
    infer = "/v2/models/tiny/infer"
    assert [guarded.get(infer, token, b"{}") for token in (None, OTHER, TOKEN)] == [401, 401, 400]
    assert [guarded.get("/v2/models/tiny", token) for token in (None, OTHER, TOKEN)] == [401, 401, 200]
    assert guarded.infer(TOKEN) == 4
    for token in (None, OTHER):
        with pytest.raises(InferenceServerException, match="no token, or not this node's"):
            guarded.infer(token)


def test_who_has_no_token_is_turned_away_before_he_has_sent_anything(guarded: Guarded) -> None:
    host, _, port = guarded.http.removeprefix("https://").rpartition(":")
    context = ssl.create_default_context(cafile=str(guarded.cert))
    with context.wrap_socket(socket.create_connection((host, int(port)), timeout=5), server_hostname=host) as one:
        one.sendall(b"POST /v2/models/tiny/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 60000000\r\n\r\n")
        assert b" 401 " in one.recv(100)
    ends = threading.Event()
    credentials = grpc.ssl_channel_credentials(guarded.cert.read_bytes())
    with grpc.secure_channel(guarded.grpc, credentials) as channel:
        call = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as refused:
            call((b"" for _ in range(int(ends.wait(20)))), timeout=5)
        ends.set()
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_without_tls_nothing_is_answered(guarded: Guarded) -> None:
    with pytest.raises(OSError):  # noqa: PT011 - reset, or no HTTP: either is right
        urllib.request.urlopen(guarded.http.replace("https", "http") + "/status", timeout=10)
    client = grpc_client.InferenceServerClient(guarded.grpc)
    with pytest.raises(InferenceServerException):
        client.is_server_live(client_timeout=5)
    client.close()


def test_new_files_are_taken_without_a_restart(guarded: Guarded) -> None:
    old = guarded.folder / "old.pem"
    old.write_bytes(guarded.cert.read_bytes())
    cert, key = certificate(guarded.folder, "two")
    for source, target in ((key, guarded.key), (cert, guarded.cert)):  # for a moment they do not fit together
        source.replace(target)
    guarded.token.write_text(OTHER)
    wait(lambda: guarded.get("/v2/models/tiny", OTHER) == 200)
    assert guarded.get("/v2/models/tiny", TOKEN) == 401
    wait(lambda: guarded.infer(OTHER) == 4)
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        guarded.get("/status", None, cert=old)


def test_a_node_that_would_be_open_does_not_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge.node", "--releases", "/x", "--state", str(tmp_path), "--name", "tiny"]
    (tmp_path / "root.json").write_text("{}")
    command += ["--root", str(tmp_path / "root.json"), "--listen", "0.0.0.0"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert re.fullmatch(r"edge\.node: listening on 0\.0\.0\.0 without a token .*--trust-network.*\n", ended.stderr)
    assert not (tmp_path / "releases").exists(), "refused before it touches anything"


def test_negative_control_without_the_check_the_wrong_token_passes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "token").write_text(TOKEN)
    access = options("--token-file", str(tmp_path / "token"))
    monkeypatch.setattr(Access, "_is_known", lambda self, given: True)
    assert access.allows("/v2/models/tiny/infer", {"authorization": f"Bearer {OTHER}"})
