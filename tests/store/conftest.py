"""The two kinds of store. MinIO is real, one for each of pytest's workers."""

import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedistill.storage import ObjectStore, open_store
from tests.minio.server import BUCKET, MinioServer


@pytest.fixture(scope="session")
def minio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """A running MinIO with one bucket. Building it takes minutes, once a machine."""
    if shutil.which("go") is None:
        pytest.skip("no Go here to build MinIO with")
    server = MinioServer(tmp_path_factory.mktemp("minio"))
    try:
        server.start()
        server.client().make_bucket(BUCKET)
        yield server
    finally:
        server.stop()


@pytest.fixture(params=["directory", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of an empty store; what it needs is in the environment."""
    if request.param == "directory":
        return str(tmp_path / "store")
    server: MinioServer = request.getfixturevalue("minio")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://{BUCKET}/{uuid.uuid4().hex}"


@pytest.fixture
def store(address: str) -> ObjectStore:
    """An empty store."""
    return open_store(address)
