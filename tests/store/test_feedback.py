"""A node's pictures go into a real MinIO by a user who may put below feedback/ and do nothing else."""

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from edge.node import s3_put
from edge.node.forward import PREFIX
from edge.node.s3_put import Credentials, S3Target, signed
from edge.node.spool import Limits, Spool, waiting
from edgedistill.errors import NodeError, StorageError
from edgedistill.s3_requests import S3Access
from edgedistill.storage_s3 import S3Store
from tests.minio.server import BUCKET, MinioServer
from tests.store.test_policy import user

POLICY = Path(__file__).resolve().parents[2] / "manifests" / "feedback" / "node-policy.json"
KEY = "feedback/node-1/20260101/x.json"


def test_the_signature_is_the_documented_one() -> None:
    """The example of Amazon's page on signature version 4, PUT Object."""
    headers = {"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"}
    made = signed(
        "PUT",
        "https://examplebucket.s3.amazonaws.com/test%24file.text",
        headers,
        b"Welcome to Amazon S3.",
        Credentials("us-east-1", "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        datetime(2013, 5, 24, tzinfo=UTC),
    )
    assert made["authorization"].endswith("98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd")


@pytest.fixture
def access(minio: MinioServer) -> S3Access:
    """A user with the policy that the repository gives."""
    assert f"arn:aws:s3:::{BUCKET}/feedback/*" in POLICY.read_text()
    return user(minio, POLICY.read_text())


def environment(minio: MinioServer, access: S3Access) -> dict[str, str]:
    values = {"ENDPOINT": minio.endpoint, "REGION": "us-east-1"}
    values |= {"ACCESS_KEY": access.access_key, "SECRET_KEY": access.secret_key}
    return {PREFIX + name: value for name, value in values.items()}


def target(minio: MinioServer, access: S3Access) -> S3Target:
    return S3Target.of(f"s3://{BUCKET}", environment(minio, access), prefix=PREFIX)


def test_a_node_may_put_feedback_and_nothing_else(minio: MinioServer, access: S3Access) -> None:
    owner, ours = S3Store(f"s3://{BUCKET}", S3Access.from_environment(minio.environment)), target(minio, access)
    ours.create(KEY, b"{}")
    assert owner.get(KEY) == b"{}"
    with pytest.raises(StorageError, match="403 AccessDenied"):
        ours.create("releases/metadata/9.root.json", b"mine")
    store = S3Store(f"s3://{BUCKET}", access)
    for call in (lambda: store.get(KEY), lambda: list(store.list("feedback/")), lambda: store.delete(KEY)):
        with pytest.raises(StorageError, match="403 AccessDenied"):
            call()


def test_what_is_there_stays_as_it_is(minio: MinioServer, access: S3Access, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, ours = S3Store(f"s3://{BUCKET}", S3Access.from_environment(minio.environment)), target(minio, access)
    key = KEY.replace("20260101", "20260102")
    for data in (b"first", b"second"):
        ours.create(key, data)
    assert owner.get(key) == b"first"

    def without(method: str, url: str, headers: dict[str, str], *rest: object) -> dict[str, str]:
        return signed(method, url, {k: v for k, v in headers.items() if k != "If-None-Match"}, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(s3_put, "signed", without)
    ours.create(key, b"second")
    assert owner.get(key) == b"second", "negative control: without the condition the store overwrites"


def test_the_child_empties_the_spool_and_tells_no_secret(minio: MinioServer, access: S3Access, tmp_path: Path) -> None:
    spool = Spool(tmp_path, Limits(reserve_bytes=0))
    for index in range(3):
        spool.keep(b"picture %d" % index, "jpg", {"label": f"class-{index}"})
    spool.ask_for_a_run({"reason": "drift"})
    expected = {
        f"feedback/edge-7/{one.day}/{path.name}": path.read_bytes() for one in waiting(tmp_path) for path in one.files
    }
    assert len(expected) == 7

    def send(**changed: str) -> tuple[dict[str, object], str]:
        values = environment(minio, access) | {PREFIX + name: value for name, value in changed.items()}
        command = [sys.executable, "-m", "edge.node.forward", str(tmp_path), f"s3://{BUCKET}", "edge-7"]
        done = subprocess.run(command, env=os.environ | values, capture_output=True, text=True, check=False)
        return json.loads(done.stdout), done.stdout + done.stderr

    refused, said = send(SECRET_KEY="wrong" * 8)
    assert refused["sent"] == 0
    assert "403 SignatureDoesNotMatch" in str(refused["error"])
    assert "wrong" not in said
    away, said = send(ENDPOINT="http://127.0.0.1:1")
    assert "does not answer" in str(away["error"])
    assert access.secret_key not in said
    assert len(list(waiting(tmp_path))) == 4, "nothing is lost"

    assert send()[0] == {"sent": 4, "error": ""}
    assert not list(waiting(tmp_path))
    owner = S3Store(f"s3://{BUCKET}", S3Access.from_environment(minio.environment))
    assert {key: owner.get(key) for key in owner.list("feedback/edge-7/")} == expected


@pytest.mark.parametrize("name", ["ENDPOINT", "REGION", "ACCESS_KEY", "SECRET_KEY"])
def test_a_missing_variable_is_named(name: str) -> None:
    values = {PREFIX + one: "http://x" for one in ("ENDPOINT", "REGION", "ACCESS_KEY", "SECRET_KEY") if one != name}
    with pytest.raises(NodeError, match=PREFIX + name):
        S3Target.of("s3://bucket", values, prefix=PREFIX)


def test_the_child_is_small() -> None:
    """Bounded memory: the sending child loads neither numpy nor OpenVINO, nor any client library."""
    code = "import sys, edge.node.forward, edge.node.s3_put; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in ("numpy", "PIL", "openvino", "grpc", "urllib3", "minio") if f"'{name}'" in done.stdout]
