"""The edge image without a container engine: what it adds, what it leaves out, and a node on what remains."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.conftest import Publisher

ROOT = Path(__file__).resolve().parents[2]
LOCK = ROOT / "requirements-edge.lock"
LIMIT = 200_000_000  # bytes
PYTHON = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"  # without a .venv


def size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def unused() -> list[str]:
    lines = (ROOT / "edge" / "unused.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def uv(*arguments: str) -> str:
    """`uv pip install` of the lock file."""
    command = [sys.executable, "-m", "uv", "pip", "install", "--no-deps", "--only-binary", ":all:", "--require-hashes"]
    done = subprocess.run([*command, "-r", str(LOCK), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The packages as they come."""
    folder = tmp_path_factory.mktemp("whole")
    uv("--quiet", "--python", str(PYTHON), "--target", str(folder), "--link-mode", "copy")
    return folder


@pytest.fixture(scope="module")
def site(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The packages as the image has them, and our own."""
    if shutil.which("strip") is None:
        pytest.skip("no strip here (package binutils)")
    folder = tmp_path_factory.mktemp("site") / "packages"
    shutil.copytree(whole, folder, symlinks=True)
    subprocess.run([ROOT / "edge" / "trim", folder, PYTHON], check=True)
    for package in ("edge", "edgedistill"):
        shutil.copytree(ROOT / package, folder / package, ignore=shutil.ignore_patterns("__pycache__"))
    yield folder
    shutil.rmtree(folder)


def test_the_image_is_built_by_the_same_script() -> None:
    text = (ROOT / "edge" / "Containerfile").read_text()
    assert "COPY edge/trim edge/unused.txt ./" in text
    assert "/src/trim lib/python3.11/site-packages python3" in text


def test_what_is_left_out_is_there(whole: Path) -> None:
    """A line that fits nothing hides that the thing has another name by now."""
    for line in unused():
        assert list(whole.glob(line.rstrip("/"))), line


def test_it_adds_at_most_200_mb(site: Path, whole: Path) -> None:
    assert size(site) <= LIMIT, f"{size(site):,} bytes"
    assert size(whole) > LIMIT, "negative control: the packages as they come are over the limit"


def test_nothing_heavy_is_in_it(site: Path) -> None:
    names = {path.name for path in site.iterdir()}
    assert not names & {"pip", "setuptools", "torch", "kfp", "kserve", "nncf", "pandas", "minio", "onnx", "pyarrow"}
    kept = {path.name.partition(".so")[0] for path in (site / "openvino" / "libs").iterdir()}
    assert {name for name in kept if name.endswith(("_plugin", "_frontend"))} == {
        "libopenvino_intel_cpu_plugin",
        "libopenvino_ir_frontend",
    }


def test_a_node_and_the_controller_run_from_it(site: Path, publisher: Publisher) -> None:
    version = publisher.publish(seed=1)
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    environment |= {name: os.environ[name] for name in ("HOME", "LD_LIBRARY_PATH") if name in os.environ}
    command = [str(PYTHON), "-s", "-m", "edge.node", "--releases", str(publisher.releases)]
    command += ["--root", str(publisher.root), "--state", str(publisher.folder / "state"), "--name", "tiny"]
    command += ["--http-port", "0", "--grpc-port", "0", "--poll-s", "0.2"]
    node = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=publisher.folder
    )
    try:
        assert node.stdout is not None
        found = re.match(r"serving on http://(\S+) ", node.stdout.readline())
        assert found, node.stderr and node.stderr.read()
        status: dict[str, object] = {}
        for _ in range(300):
            with urllib.request.urlopen(f"http://{found[1]}/status", timeout=10) as answer:
                status = json.load(answer)
            if status["active"]:
                break
            node.poll()
            assert node.returncode is None
            subprocess.run(["sleep", "0.1"], check=True)
        active = status["active"]
        assert isinstance(active, dict), status
        assert active["version"] == version, "fetched, verified and tried by the child"
    finally:
        node.send_signal(signal.SIGTERM)
        node.communicate(timeout=30)
    told = subprocess.run(
        [str(PYTHON), "-s", "-m", "edge.rollout", "--help"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert told.returncode == 0, told.stderr


@pytest.mark.parametrize("platform", ["x86_64-manylinux_2_36", "aarch64-manylinux_2_36"])
def test_every_package_has_a_wheel_for(platform: str, tmp_path: Path) -> None:
    """2.36 is the C library of the image's Debian; on arm64, OpenVINO needs 2.35."""
    said = uv(
        "--dry-run", "--python-platform", platform, "--python-version", "3.11", "--target", str(tmp_path / "none")
    )
    found = re.search(r"Would install (\d+) packages", said)
    assert found, said
    names = re.findall(r"^([a-zA-Z0-9][^\s=]*)==", LOCK.read_text(), re.MULTILINE)
    assert int(found[1]) >= len(names) - 2, "all but those of another interpreter"
