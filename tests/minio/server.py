"""A real MinIO on loopback, built from its Go module: one drive, random port and credentials, ended by its pid."""

import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

from minio import Minio

from edgedistill.s3_requests import S3Access
from edgedistill.storage_s3 import S3Store
from tests.go_modules import built

START_S = 180.0  # seconds on a busy machine; two when idle
BUCKET = "pipeline"


@dataclass
class MinioServer:
    """One server; `folder` holds its drive and its log."""

    folder: Path
    port: int = field(default_factory=lambda: _free_port())
    access_key: str = field(default_factory=lambda: f"user{secrets.token_hex(6)}")
    secret_key: str = field(default_factory=lambda: secrets.token_hex(20))
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a pipeline user has to export."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
        }

    def start(self) -> None:
        """Start it, again on the same drive and port, and wait until it serves.

        Raises:
            TimeoutError: it does not.
        """
        command = [str(built("minio") / "minio"), "server", "--quiet", "--address", f"127.0.0.1:{self.port}"]
        command += ["--console-address", f"127.0.0.1:{_free_port()}", "--certs-dir", str(self.folder / "certs")]
        if shutil.which("setpriv"):  # it ends with the tests, whatever ends them
            command = ["setpriv", "--pdeathsig", "KILL", *command]
        environment = {
            "PATH": "/usr/bin:/bin",
            "HOME": str(self.folder),
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }
        (self.folder / "drive").mkdir(parents=True, exist_ok=True)
        with (self.folder / "minio.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, str(self.folder / "drive")],
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=environment,
            )
        deadline = time.monotonic() + START_S
        while not self._ready():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise TimeoutError(f"MinIO does not serve: {(self.folder / 'minio.log').read_text()[-500:]}")
            time.sleep(0.05)

    def kill(self) -> None:
        """kill -9."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End it in peace."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.kill()

    def client(self) -> Minio:
        """The owner's client."""
        return Minio(f"127.0.0.1:{self.port}", self.access_key, self.secret_key, secure=False, region="us-east-1")

    def store(
        self, prefix: str, *, patience_s: float = 60.0, kind: type[S3Store] = S3Store, endpoint: str | None = None
    ) -> S3Store:
        """A store below a prefix of the bucket."""
        environment = self.environment | ({"AWS_ENDPOINT_URL_S3": endpoint} if endpoint else {})
        return kind(f"s3://{BUCKET}/{prefix}", S3Access.from_environment(environment), patience_s=patience_s)

    def _ready(self) -> bool:
        address = f"{self.endpoint}/minio/health/ready"
        try:
            with urllib.request.urlopen(address, timeout=2) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
