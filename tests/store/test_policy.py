"""The two policies that docs/object-store.md gives, tried on a real MinIO by users who have nothing else."""

import json
import re
import secrets
from pathlib import Path

import pytest
from minio.credentials import StaticProvider
from minio.minioadmin import MinioAdmin

from edgedistill.errors import StorageError
from edgedistill.s3_requests import S3Access
from edgedistill.storage_s3 import S3Store
from tests.minio.server import BUCKET, MinioServer

PAGE = Path(__file__).resolve().parents[2] / "docs" / "object-store.md"
PREFIX = "team-a"  # as on the page


def user(minio: MinioServer, policy: str) -> S3Access:
    """A new user with that policy."""
    name, secret = f"user{secrets.token_hex(4)}", secrets.token_hex(20)
    admin = MinioAdmin(
        endpoint=f"127.0.0.1:{minio.port}",
        credentials=StaticProvider(minio.access_key, minio.secret_key),
        region="us-east-1",
        secure=False,
    )
    admin.user_add(name, secret)
    admin.policy_add(name, policy=json.loads(policy))
    admin.attach_policy([name], user=name)
    environment = minio.environment | {"AWS_ACCESS_KEY_ID": name, "AWS_SECRET_ACCESS_KEY": secret}
    return S3Access.from_environment(environment)


@pytest.fixture(scope="module")
def policies() -> list[str]:
    """For who runs pipelines, and for nodes."""
    found = re.findall(r"```json\n(.+?)```", PAGE.read_text(), re.DOTALL)
    assert len(found) == 2
    assert all(f'"arn:aws:s3:::{BUCKET}' in policy for policy in found), "the page names the tests' bucket"
    for policy in found:
        json.loads(policy)
    return found


def test_a_pipeline_user_may_do_what_runs_do(minio: MinioServer, policies: list[str], tmp_path: Path) -> None:
    access = user(minio, policies[0])
    store = S3Store(f"s3://{BUCKET}/{PREFIX}", access)
    store.put("a/b", b"1")
    (tmp_path / "file").write_bytes(b"2")
    store.put_file("a/c", tmp_path / "file")
    assert list(store.list("a/")) == ["a/b", "a/c"]
    assert store.get("a/c") == b"2"
    assert not store.exists("a/d")
    store.swap("HEAD", b"1", expected=None)
    store.swap("HEAD", b"2", expected=b"1")
    with pytest.raises(StorageError, match="no object"):
        store.get("absent")
    with pytest.raises(StorageError, match="AccessDenied"):
        store.delete("a/b")
    elsewhere = S3Store(f"s3://{BUCKET}/team-b", access)
    with pytest.raises(StorageError, match="AccessDenied"):
        elsewhere.put("a/b", b"1")


def test_a_node_may_read_releases_only(minio: MinioServer, policies: list[str]) -> None:
    owner, node = minio.store(PREFIX), S3Store(f"s3://{BUCKET}/{PREFIX}", user(minio, policies[1]))
    owner.put("releases/metadata/1.root.json", b"root")
    owner.put("runs/1/record.json", b"{}")
    assert node.get("releases/metadata/1.root.json") == b"root"
    for call in (
        lambda: node.get("runs/1/record.json"),
        lambda: node.put("releases/metadata/2.root.json", b"mine"),
        lambda: node.delete("releases/metadata/1.root.json"),
        lambda: list(node.list("releases/")),
    ):
        with pytest.raises(StorageError, match="403 AccessDenied"):
            call()
