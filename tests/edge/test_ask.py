"""`edgedistill ask`: a table of labels and the release that said so, or one sentence."""

import json
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgedistill.images import encode_png
from tests.edge.conftest import Publisher, StartNode, pictures
from tests.edge.test_access import OTHER, TOKEN, certificate


def ask(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "edgedistill.cli", "ask", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def image(tmp_path: Path) -> str:
    path = tmp_path / "picture.png"
    path.write_bytes(encode_png(pictures(1)[0]))
    return str(path)


def failed(done: "subprocess.CompletedProcess[str]", words: str) -> None:
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""


def test_it_tells_labels_and_the_release(
    publisher: Publisher, start_node: StartNode, image: str, tmp_path: Path
) -> None:
    publisher.publish(seed=1)
    (tmp_path / "token").write_text(TOKEN)
    (tmp_path / "wrong").write_text(OTHER)
    cert, key = certificate(tmp_path, "node")
    guards = ["--token-file", str(tmp_path / "token"), "--tls-cert", str(cert), "--tls-key", str(key)]
    plain, guarded = start_node(), start_node(*guards, state="guarded")
    plain.wait_version(1)
    table = ask(image, "--node", f"http://{plain.http}", "--top", "2")
    assert table.returncode == 0, table.stderr
    lines = table.stdout.splitlines()
    assert lines[0].split() == ["label", "probability"]
    assert [line.split()[0][:6] for line in lines[1:3]] == ["class-", "class-"]
    assert lines[3].startswith("release 1 of tiny (")

    node = ("--node", f"https://{guarded.http}", "--ca", str(cert))
    for _ in range(100):  # its status is behind TLS, which NodeProcess does not speak
        told = ask(image, *node, "--json", "--token-file", str(tmp_path / "token"))
        if "no release" not in told.stderr:
            break
    document = json.loads(told.stdout)
    assert document["release"] == 1
    chances = [one["probability"] for one in document["answers"]]
    assert len(chances) == 4, "all classes, when there are fewer than --top"
    assert chances == sorted(chances, reverse=True)
    assert np.isclose(sum(chances), 1, atol=1e-5)
    failed(ask(image, *node), "give --token-file FILE")
    failed(ask(image, *node, "--token-file", str(tmp_path / "wrong")), "give --token-file FILE")
    failed(ask(image, "--node", f"https://{guarded.http}"), "give --ca FILE")
    junk = tmp_path / "junk.png"
    junk.write_bytes(b"no picture at all")
    failed(ask(str(junk), "--node", f"http://{plain.http}"), "no JPEG or PNG")


def test_without_a_node_or_a_file_it_is_one_sentence(image: str, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    failed(ask(image, "--node", f"http://127.0.0.1:{port}"), "does not answer")
    failed(ask(image, "--node", "edge-07"), "expected an address like")
    failed(ask(str(tmp_path / "absent.png")), "cannot be read")
    (tmp_path / "token").write_text(TOKEN)
    failed(ask(image, "--node", "http://192.0.2.1", "--token-file", str(tmp_path / "token")), "in the clear")
