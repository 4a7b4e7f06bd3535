"""A real Triton on loopback, without a container: the server in nvidia-pytriton's wheel, with its python back end.

The submitter owns the server's process: a pipeline step must not leave a child behind. This version of Triton predates
security fixes, so it listens on loopback only and never appears in a chart.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from edgedistill.errors import TeacherError
from serving.model_repository import config_pbtxt

START_S = 60.0


@dataclass(frozen=True)
class Served:
    """A running server."""

    url: str  # host:port of its gRPC
    server: str  # name and version, for the record
    process: subprocess.Popen[bytes]  # of its keeper
    log: Path

    def stop(self) -> None:
        """End the server, by its pid."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@contextlib.contextmanager
def serve(model: bytes, *, name: str, size: int, classes: int, folder: Path | None = None) -> Iterator[Served]:
    """Serve one ONNX teacher until the block ends.

    Args:
        model: ONNX, image uint8 (B, S, S, 3) -> logits (B, K).
        name: of the model.
        size: S, pixels.
        classes: K.
        folder: where the throw-away repository and the log go; None: a temporary one.

    Raises:
        TeacherError: the server is not installed, lacks a system library, or does not become ready.
    """
    with tempfile.TemporaryDirectory(prefix="edgedistill-triton-", dir=folder) as temporary:
        root = Path(temporary)
        _write_repository(root / "models", model, name=name, size=size, classes=classes)
        served = _start(root)
        try:
            _wait_ready(served, name)
            yield served
        finally:
            served.stop()


def _write_repository(root: Path, model: bytes, *, name: str, size: int, classes: int) -> None:
    folder = root / name / "1"
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_bytes(model)
    shutil.copy(Path(__file__).with_name("triton_model.py"), folder / "model.py")
    labels = "".join(f"{i}\n" for i in range(classes))
    (root / name / "labels.txt").write_text(labels)
    (root / name / "config.pbtxt").write_text(config_pbtxt(name, backend="python", size=size, classes=classes))


def _start(root: Path) -> Served:
    wheel = _wheel()
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = root / "backends" / "python"
    shutil.copytree(wheel / "backends" / "python", backend)
    stub = wheel / "python_backend_stubs" / python
    if not stub.is_dir():
        raise TeacherError(f"Triton's wheel has no stub for Python {python}; use Python 3.11, 3.12 or 3.13")
    shutil.copytree(stub, backend, dirs_exist_ok=True)
    site = wheel.parent.parent
    _check_libpython(backend, site)
    http, grpc, metrics = _free_ports(3)
    command = [
        str(wheel / "bin" / "tritonserver"),
        f"--model-repository={root / 'models'}",
        f"--backend-directory={root / 'backends'}",
        "--http-address=127.0.0.1",
        "--grpc-address=127.0.0.1",
        "--metrics-address=127.0.0.1",
        f"--http-port={http}",
        f"--grpc-port={grpc}",
        f"--metrics-port={metrics}",
        "--disable-auto-complete-config",
    ]
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs"),
        "PYTHONPATH": str(site),
        "PATH": f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}",
    }
    log = root / "triton.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*_ends_with_us(), *command], stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env=environment
        )
    server = f"tritonserver (nvidia-pytriton {version('nvidia-pytriton')})"
    return Served(f"127.0.0.1:{grpc}", server, process, log)


def _wheel() -> Path:
    spec = find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise TeacherError("Triton is not installed here; run: make install")
    return Path(spec.origin).parent / "tritonserver"


def _check_libpython(backend: Path, site: Path) -> None:
    """The stub links the system's libpython, which Debian keeps in a package of its own."""
    stub = backend / "triton_python_backend_stub"
    listed = subprocess.run(
        ["ldd", str(stub)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"LD_LIBRARY_PATH": str(site / "nvidia_pytriton.libs")},
    ).stdout
    missing = [line.split()[0] for line in listed.splitlines() if "not found" in line]
    if missing:
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        raise TeacherError(f"Triton's python back end lacks {missing[0]}; run: apt-get install -y libpython{python}")


def _wait_ready(served: Served, name: str) -> None:
    from tritonclient.grpc import InferenceServerClient
    from tritonclient.utils import InferenceServerException

    deadline = time.monotonic() + START_S
    with InferenceServerClient(served.url) as client:
        while time.monotonic() < deadline:
            if served.process.poll() is not None:
                break
            with contextlib.suppress(InferenceServerException):
                if client.is_model_ready(name, client_timeout=2.0):
                    return
            time.sleep(0.1)
    lines = [line for line in served.log.read_text(errors="replace").splitlines() if line[:1] == "E" or "rror" in line]
    reason = lines[-1] if lines else "its log says nothing"
    raise TeacherError(f"Triton did not serve {name!r} within {START_S:.0f} s: {reason}")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def _ends_with_us() -> list[str]:
    """A command prefix: the server and all of its processes end when the submitter is killed, whatever killed it."""
    if sys.platform != "linux":
        return []
    # Not a preexec_fn: Python between fork and exec, beside gRPC's threads, ends the child with SIGSEGV now and then.
    return [sys.executable, str(Path(__file__).with_name("triton_keeper.py")), str(os.getpid())]


def installed() -> bool:
    """Whether the wheel is here (it exists for Linux on x86-64 only)."""
    with contextlib.suppress(PackageNotFoundError):
        return bool(version("nvidia-pytriton"))
    return False
