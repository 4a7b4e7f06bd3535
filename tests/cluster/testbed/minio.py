"""The releases' home: a real MinIO in the `cloud` namespace, and the pipeline runs that publish into it.

Everybody who reaches it may read what is below `releases/`, and nothing else: so nodes need no credentials.
"""

import json
import secrets
import sys
import time
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from minio import Minio

from edgedistill.s3_requests import S3Access
from edgedistill.storage_s3 import S3Store
from tests.cluster.testbed.images import REPOSITORY
from tests.cluster.testbed.network import CLOUD, CLOUD_ADDRESS, NODES
from tests.cluster.testbed.processes import Processes, run

BUCKET = "pipeline"
PORT = 9000
RUNS = "pipeline-runs"  # name of the process that makes the releases
SEEDS = (1, 2, 3)  # one release each
_CHAIN = "EDT-RELEASES"
_START_S = 60


@dataclass(frozen=True)
class ReleaseStore:
    """The bucket, and the keys of its owner.

    Args:
        folder: holds the drive, the credentials and the home of the pipeline runs.
    """

    folder: Path

    @property
    def endpoint(self) -> str:
        return f"http://{CLOUD_ADDRESS}:{PORT}"

    @property
    def url(self) -> str:
        """What a node is told as --releases."""
        return f"{self.endpoint}/{BUCKET}/releases"

    @property
    def home(self) -> Path:
        """The home of the pipeline runs: the signing keys."""
        return self.folder / "home"

    @property
    def environment(self) -> dict[str, str]:
        """What a pipeline user exports."""
        keys = json.loads((self.folder / "credentials.json").read_text())
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint,
            "AWS_REGION": "us-east-1",
            "AWS_ACCESS_KEY_ID": keys["user"],
            "AWS_SECRET_ACCESS_KEY": keys["password"],
        }

    def store(self) -> S3Store:
        """The bucket as the pipeline sees it."""
        return S3Store(f"s3://{BUCKET}", S3Access.from_environment(self.environment))

    def client(self) -> Minio:
        """The owner's client."""
        known = self.environment
        return Minio(
            f"{CLOUD_ADDRESS}:{PORT}",
            known["AWS_ACCESS_KEY_ID"],
            known["AWS_SECRET_ACCESS_KEY"],
            secure=False,
            region=known["AWS_REGION"],
        )

    def sent(self) -> Counter[str]:
        """Node -> bytes that the store sent to the node's pods, with all headers, since `count_from_now`."""
        lines = run("iptables", "-L", _CHAIN, "-nvx", namespace=CLOUD).splitlines()
        counts = {line.split()[-1]: int(line.split()[1]) for line in lines if "/24" in line}
        return Counter({node.name: counts[node.pods] for node in NODES})

    def count_from_now(self) -> None:
        """Begin to count at zero."""
        run("iptables", "-Z", _CHAIN, namespace=CLOUD)


def start_minio(folder: Path, program: Path, processes: Processes) -> ReleaseStore:
    """Start it with new credentials, make the bucket and let everybody read `releases/`; the network is there.

    Raises:
        RuntimeError: it does not serve.
    """
    (folder / "drive").mkdir(parents=True)
    keys = {"user": f"user{secrets.token_hex(6)}", "password": secrets.token_hex(20)}
    (folder / "credentials.json").touch(mode=0o600)
    (folder / "credentials.json").write_text(json.dumps(keys))
    command = [str(program), "server", "--quiet", "--address", f"{CLOUD_ADDRESS}:{PORT}"]
    command += ["--certs-dir", str(folder / "certs"), str(folder / "drive")]
    environment = {"MINIO_ROOT_USER": keys["user"], "MINIO_ROOT_PASSWORD": keys["password"]}
    environment |= {"MINIO_BROWSER": "off", "MINIO_UPDATE": "off", "HOME": str(folder)}
    processes.start("minio", command, namespace=CLOUD, environment=environment)
    run(sys.executable, "-m", __name__, str(folder), namespace=CLOUD)  # this process is not in the cloud's network
    run("iptables", "-N", _CHAIN, namespace=CLOUD)
    run("iptables", "-I", "OUTPUT", "-p", "tcp", "--sport", str(PORT), "-j", _CHAIN, namespace=CLOUD)
    for node in NODES:
        run("iptables", "-A", _CHAIN, "-d", node.pods, namespace=CLOUD)  # no target: it only counts
    return ReleaseStore(folder)


def start_pipeline_runs(found: ReleaseStore, processes: Processes) -> None:
    """Begin to make the releases in the background: one pipeline run for each seed, into the bucket."""
    words = f"--home {found.home} --store s3://{BUCKET} --set distill.seed="
    runs = [f"make --no-print-directory pipeline-run PRESET=tiny ARGS='{words}{seed}'" for seed in SEEDS]
    script = " && ".join([f"cd '{REPOSITORY}'", *runs, f"touch '{found.home}/complete'"])
    processes.start(RUNS, ["sh", "-c", script], namespace=CLOUD, environment=found.environment)


def wait_pipeline_runs(found: ReleaseStore, processes: Processes) -> None:
    """Wait until the releases are published.

    Raises:
        RuntimeError: a run failed; the message holds the end of its log.
    """
    while processes.is_running(RUNS):
        time.sleep(0.2)
    if not (found.home / "complete").exists():
        raise RuntimeError(f"the pipeline runs failed: {processes.log_tail(RUNS)}")


def _make_bucket(found: ReleaseStore) -> None:
    """Wait for MinIO, make the bucket and its policy; run in the cloud's network."""
    deadline = time.monotonic() + _START_S
    while True:
        try:
            with urllib.request.urlopen(f"{found.endpoint}/minio/health/ready", timeout=2):
                break
        except OSError as error:
            if time.monotonic() > deadline:
                raise TimeoutError(f"MinIO does not serve after {_START_S} s") from error
        time.sleep(0.1)
    client = found.client()
    client.make_bucket(BUCKET)
    readable = {"Effect": "Allow", "Principal": {"AWS": ["*"]}, "Action": ["s3:GetObject"]}
    readable["Resource"] = [f"arn:aws:s3:::{BUCKET}/releases/*"]
    client.set_bucket_policy(BUCKET, json.dumps({"Version": "2012-10-17", "Statement": [readable]}))


if __name__ == "__main__":
    _make_bucket(ReleaseStore(Path(sys.argv[1])))
