"""The submitter's side of an embedded teacher: it starts and ends Triton when a pipeline step asks over a Unix socket.

A pipeline step must not leave a child behind (kfp's local runner would wait for it, or lose it), and the teacher has to
outlive `deploy_teacher`. So the process that submitted the run owns the server, and ends it with the run.
"""

import contextlib
import json
import os
import socket
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgedistill.errors import EdgeDistillError, TeacherError
from edgedistill.storage import open_store
from serving import local_rig

_ANSWER_S = local_rig.START_S + 30


class TeacherHost:
    """Owns at most one served teacher."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder  # for the throw-away repositories
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self.starts = 0  # how many servers were started; an unchanged run starts none

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answer one request: `start` with a store and a published teacher, or `stop`."""
        with self._lock:
            self._stack.close()
            if request["action"] == "stop":
                return {}
            model = open_store(request["store"]).get(request["model"])
            about = {name: request[name] for name in ("name", "size", "classes")}
            serving = local_rig.serve(model, **about, folder=self._folder)
            served = self._stack.enter_context(serving)
            self.starts += 1
            return {"url": served.url, "server": served.server}

    def close(self) -> None:
        """End the server, if any."""
        with self._lock:
            self._stack.close()


@contextlib.contextmanager
def hosting(scratch: Path | None = None) -> Iterator[tuple[TeacherHost, str]]:
    """A host that answers until the block ends, and the path of its socket; both keep their files in `scratch`."""
    host = TeacherHost(scratch)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            try:
                answer = host.handle(json.loads(self.rfile.readline()))
            except EdgeDistillError as error:
                answer = {"error": str(error)}
            self.wfile.write(json.dumps(answer).encode() + b"\n")

    with tempfile.TemporaryDirectory(prefix="edgedistill-", dir=scratch) as folder:
        path = Path(folder) / "teacher.sock"
        with _short(path) as address, socketserver.UnixStreamServer(address, Handler) as server:
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True)
            thread.start()
            try:
                yield host, str(path)
            finally:
                server.shutdown()
                thread.join()
                host.close()


def ask_host(path: str, request: dict[str, Any]) -> dict[str, Any]:
    """One request to the submitter, from a step.

    Raises:
        TeacherError: the submitter is gone, or it could not start the server.
    """
    try:
        with _short(Path(path)) as address, socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_ANSWER_S)
            connection.connect(address)
            connection.sendall(json.dumps(request).encode() + b"\n")
            with connection.makefile("rb") as stream:
                answer: dict[str, Any] = json.loads(stream.readline())
    except (OSError, ValueError) as error:
        raise TeacherError(f"the run's submitter does not answer at {path} ({error}); start the run again") from error
    if "error" in answer:
        raise TeacherError(answer["error"])
    return answer


@contextlib.contextmanager
def _short(path: Path) -> Iterator[str]:
    """An address of the socket that fits into the 104 bytes that systems allow, however deep its folder lies."""
    if len(os.fsencode(path)) < 100 or not Path("/proc/self/fd").is_dir():
        yield str(path)
        return
    descriptor = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{path.name}"
    finally:
        os.close(descriptor)
