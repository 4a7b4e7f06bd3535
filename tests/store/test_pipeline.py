"""The whole tiny pipeline on a real MinIO."""

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from edgedistill.local_copy import local_releases
from edgedistill.signing import TIMESTAMP
from edgedistill.storage import DirectoryStore, ObjectStore, open_store
from tests.minio.server import BUCKET, MinioServer

COMMAND = str(Path(sys.executable).with_name("edgedistill"))
TOKENS = ("X-Amz-Signature", "X-Amz-Credential")


def call(*arguments: str, home: Path, minio: MinioServer, store: str) -> str:
    """`edgedistill ...` on the bucket; its output."""
    environment = os.environ | minio.environment | {"EDGEDISTILL_STORE": store}
    done = subprocess.run(
        [COMMAND, *arguments, "--home", str(home)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr
    assert minio.secret_key not in done.stdout + done.stderr
    return done.stdout


@pytest.mark.timeout(1800)  # two runs: two minutes when idle
def test_a_run_on_a_bucket(minio: MinioServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, address = tmp_path / "home", f"s3://{BUCKET}/{uuid.uuid4().hex}"
    place: dict[str, Any] = {"home": home, "minio": minio, "store": address}
    said = call("run", "--preset", "tiny", **place)
    first = json.loads(call("runs", "show", "latest", "--json", **place))
    assert first["release"]["version"] == 1
    assert "A local node serves release 1" in said
    report = home / "reports" / f"{first['run_id']}.html"
    assert str(report) in said
    assert "<html" in report.read_text()[:500]
    call("run", "--preset", "tiny", **place)
    second = json.loads(call("runs", "show", "latest", "--json", **place))
    assert second["run_id"] != first["run_id"]
    assert all(step["cached"] for step in second["steps"]), second["steps"]
    assert second["release"] == first["release"]
    assert first["run_id"] in call("runs", "list", **place)
    assert json.loads(call("release", "list", "--json", **place))["latest"] == 1
    assert not (home / "store").exists()
    for name, value in minio.environment.items():
        monkeypatch.setenv(name, value)
    check_secrets(home, open_store(address), (minio.secret_key, *TOKENS))
    again = local_releases(open_store(address), home / "releases", name="demo", version=1)
    assert (again / "metadata" / "timestamp.json").read_bytes() == open_store(address).get(TIMESTAMP)


def check_secrets(home: Path, store: ObjectStore, secrets: tuple[str, ...]) -> None:
    """No file of the run, and no object, holds one."""
    files = [path for path in home.rglob("*") if path.is_file()]
    assert any(path.suffix == ".log" for path in files)
    for path in files:
        assert not any(secret.encode() in path.read_bytes() for secret in secrets), path
    for key in store.list(""):
        assert not any(secret.encode() in store.get(key) for secret in secrets), key


def test_a_secret_in_the_home_is_found(tmp_path: Path) -> None:
    """The negative control of the search above."""
    (tmp_path / "home" / "deep").mkdir(parents=True)
    (tmp_path / "home" / "deep" / "run.log").write_text("request with key hidden-secret")
    with pytest.raises(AssertionError, match=r"run\.log"):
        check_secrets(tmp_path / "home", DirectoryStore(tmp_path / "store"), ("hidden-secret",))
