"""The node on arm64, emulated: an arm64 Debian's Python, the lock file's arm64 wheels, a release that becomes active.

Only in `make prove`: it takes minutes, and the packages qemu-user-static and debootstrap.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgedistill.inference import Student
from tests.edge import proof
from tests.edge.conftest import SIZE, Publisher, pictures, tiny_model
from tests.edge.test_image import ROOT, uv

pytestmark = pytest.mark.proof
QEMU = "qemu-aarch64-static"
LIBRARIES = "LD_LIBRARY_PATH=/lib/aarch64-linux-gnu:/usr/lib/aarch64-linux-gnu"
START = """
import sys, runpy
sys.executable, *sys.argv = {python!r}, 'edge.node', *sys.argv[1:]
runpy.run_module('edge.node', run_name='__main__')
"""


def debian(folder: Path) -> Path:
    """An arm64 Debian's files, unpacked and not configured: nothing of it has to run for that."""
    root = folder / "root"
    command = ["debootstrap", "--foreign", "--arch", "arm64", "--variant", "minbase", "--include", "python3"]
    subprocess.run([*command, "bookworm", root], check=True, stdout=subprocess.DEVNULL)
    for package in (root / "var" / "cache" / "apt" / "archives").glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", package, root], check=True)
    return root


def packages(folder: Path) -> Path:
    """The arm64 image's packages and our own, but for `strip`: this machine's knows its own symbols only."""
    site, tools = folder / "site", folder / "tools"
    arm64 = ("--python-platform", "aarch64-manylinux_2_36", "--python-version", "3.11")
    uv("--quiet", *arm64, "--target", str(site), "--link-mode", "copy")
    tools.mkdir()
    (tools / "strip").symlink_to("/bin/true")
    path = {"PATH": f"{tools}:{os.environ['PATH']}"}
    subprocess.run([ROOT / "edge" / "trim", site, sys.executable], check=True, env=os.environ | path)
    for package in ("edge", "edgedistill"):
        shutil.copytree(ROOT / package, site / package, ignore=shutil.ignore_patterns("__pycache__"))
    return site


def answered(address: str, body: object = None) -> dict[str, object]:
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(address, data, timeout=120) as answer:
        document: dict[str, object] = json.load(answer)
        return document


def emulated(publisher: Publisher, folder: Path, tell: Callable[[str, str], None]) -> None:
    version = publisher.publish(seed=1)
    root, site, python = debian(folder), packages(folder), folder / "python"
    real = root / "usr" / "bin" / "python3.11"
    python.write_text(f'#!/bin/sh\nexec {QEMU} -L {root} -E {LIBRARIES} {real} -s -S "$@"\n')
    python.chmod(0o755)
    environment = {"PATH": os.environ["PATH"], "PYTHONHOME": str(root / "usr"), "PYTHONPATH": str(site)}
    command = [str(python), "-c", START.format(python=str(python)), "--releases", str(publisher.releases)]
    command += ["--root", str(publisher.root), "--state", str(folder / "state"), "--name", "tiny"]
    command += ["--http-port", "0", "--grpc-port", "0", "--poll-s", "1"]
    with (folder / "log").open("w") as log:
        node = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=log, text=True, cwd=folder)
    try:
        assert node.stdout is not None
        found = re.match(r"serving on http://(\S+) ", node.stdout.readline())
        assert found, (folder / "log").read_text()
        deadline = time.monotonic() + 600
        while not (active := answered(f"http://{found[1]}/status")["active"]):
            assert time.monotonic() < deadline
            assert node.poll() is None, (folder / "log").read_text()
            time.sleep(1)
        assert isinstance(active, dict)
        assert active["version"] == version
        images = pictures(5)
        tensor = {"name": "image", "datatype": "UINT8", "shape": [5, SIZE, SIZE, 3], "data": images.ravel().tolist()}
        answer = answered(f"http://{found[1]}/v2/models/tiny/infer", {"inputs": [tensor]})
        (output,) = answer["outputs"]  # type: ignore[misc]
        given = np.array(output["data"], np.float32).reshape(output["shape"])
        expected = Student(tiny_model(1)).logits(images)
        np.testing.assert_allclose(given, expected, rtol=1e-4, atol=1e-4)
        worst = float(np.abs(given - expected).max())
        tell("arm64", f"fetched, verified, tried and served under {QEMU}; 5 answers within {worst:.1g} of amd64's")
    finally:
        node.send_signal(signal.SIGTERM)
        node.communicate(timeout=120)


if proof.size(in_ci=0, whole=1):

    def test_a_node_runs_on_arm64(publisher: Publisher, tmp_path: Path, tell: Callable[[str, str], None]) -> None:
        for tool in (QEMU, "debootstrap", "dpkg-deb"):
            if shutil.which(tool) is None:
                pytest.skip(f"no {tool} here (packages qemu-user-static, debootstrap, dpkg)")
        emulated(publisher, tmp_path, tell)
