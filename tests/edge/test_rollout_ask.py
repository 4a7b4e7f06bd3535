"""`python -m edge.rollout ask`, which `helm test` runs: a checked answer of a real node, or one sentence of why not."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.edge.conftest import Publisher, StartNode
from tests.edge.test_access import OTHER, TOKEN, certificate


def ask(url: str, *arguments: str, name: str = "tiny", timeout_s: int = 3) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "edge.rollout", "ask", "--url", url, "--name", name, *arguments]
    command += ["--timeout-s", str(timeout_s)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def failed(done: "subprocess.CompletedProcess[str]", words: str) -> None:
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""


def test_a_node_that_serves_is_right_and_one_that_does_not_is_told(publisher: Publisher, start_node: StartNode) -> None:
    node = start_node()
    failed(ask(f"http://{node.http}", timeout_s=1), "serves no release")
    publisher.publish(seed=1)
    node.wait_version(1)
    done = ask(f"http://{node.http}")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("release 1 of tiny answered in ")
    assert "one of 4 classes" in done.stdout
    failed(ask(f"http://{node.http}", name="other"), "serves 'tiny', expected 'other'; give --name")
    node.kill()
    failed(ask(f"http://{node.http}", timeout_s=1), "does not answer")
    failed(ask("node:8080"), "--url is 'node:8080'")


def test_a_guarded_node_by_its_token_and_its_certificate(
    publisher: Publisher, start_node: StartNode, tmp_path: Path
) -> None:
    publisher.publish(seed=1)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "wrong").write_text(OTHER)
    cert, key = certificate(tmp_path, "node")
    stranger, _ = certificate(tmp_path, "stranger")
    guards = ["--token-file", str(tmp_path / "token"), "--tls-cert", str(cert), "--tls-key", str(key)]
    url = f"https://{start_node(*guards).http}"
    given = ("--token-file", str(tmp_path / "token"), "--certificate", str(cert))
    done = ask(url, *given, timeout_s=30)
    assert done.returncode == 0, done.stderr
    failed(ask(url, "--token-file", str(tmp_path / "wrong"), *given[2:], timeout_s=1), "give --token-file FILE")
    failed(ask(url, *given[:2], "--certificate", str(stranger), timeout_s=1), "give --certificate FILE")
    failed(ask(url, *given[:2], timeout_s=1), "give --certificate FILE")
    failed(ask(url, *given[:2], "--certificate", str(tmp_path / "token")), "no PEM certificate")
    failed(ask(url, "--token-file", str(tmp_path / "none")), "cannot be read")


ANSWERS: dict[str, Any] = {
    "/status": {"state": "serving", "active": {"name": "tiny", "version": 2, "digest": "d"}},
    "/v2/models/tiny": {"parameters": {"labels": ["a", "b"]}},
    "/v2/models/tiny/infer": {
        "model_version": "2",
        "parameters": {"release_digest": "d"},
        "outputs": [
            {"name": "logits", "data": [1.0, 2.0]},
            {"name": "label", "data": ["b"]},
            {"name": "probability", "data": [0.7]},
        ],
    },
}


@contextmanager
def served(answers: dict[str, Any]) -> Iterator[str]:
    """Something that answers with these documents."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps(answers[self.path]).encode()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def spoilt(change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    answers: dict[str, Any] = json.loads(json.dumps(ANSWERS))
    change(answers)
    return answers


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a: a["/v2/models/tiny/infer"]["outputs"][0].update(data=[1.0, float("nan")]), "is not finite"),
        (lambda a: a["/v2/models/tiny/infer"]["outputs"][0].update(data=[2.0, 1.0]), "labels of release 2 do not fit"),
        (lambda a: a["/v2/models/tiny"]["parameters"].update(labels=["a", "b", "c"]), "do not fit"),
        (lambda a: a["/status"]["active"].update(digest="e"), "which /status does not call active"),
        (lambda a: a["/v2/models/tiny/infer"].update(outputs=[]), "is no node"),
        (lambda a: a.update({"/status": [1]}), "is no node"),
    ],
)
def test_each_check_catches_what_it_is_for(change: Callable[[dict[str, Any]], object], words: str) -> None:
    with served(ANSWERS) as url:
        right = ask(url)
        assert right.returncode == 0, right.stderr
    with served(spoilt(change)) as url:
        failed(ask(url, timeout_s=1), words)
