"""Addresses of stores, and what a directory does beyond the contract (tests/store holds that)."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgedistill.errors import ConfigError, StorageError
from edgedistill.storage import DirectoryStore, open_store

VARIABLES = {
    "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:1",
    "AWS_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "somebody",
    "AWS_SECRET_ACCESS_KEY": "hidden-secret",
    "AWS_SESSION_TOKEN": "hidden-token",
}
FULL = """
import sys
from pathlib import Path
from edgedistill.errors import StorageError
from edgedistill.storage import open_store
{limit}
store = open_store(sys.argv[1])
store.put("small", b"x" * 1000)
for name, write in (("put", lambda: store.put("a/put", b"x" * 3_000_000)),
                    ("file", lambda: store.put_file("a/file", Path(sys.argv[2]))),
                    ("swap", lambda: store.swap("HEAD", b"x" * 3_000_000, expected=None))):
    try:
        write()
    except StorageError as error:
        print(name, error)
print(list(store.list("")), [p.name for p in (Path(sys.argv[1]) / ".tmp").iterdir()])
"""


def test_an_unknown_kind_of_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ftp://x"):
        open_store("ftp://x")
    with pytest.raises(StorageError, match="no object 'absent'"):
        open_store(f"file://{tmp_path}").get("absent")


@pytest.mark.parametrize("name", sorted(VARIABLES.keys() - {"AWS_SESSION_TOKEN"}))
def test_a_missing_variable_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=name):
        open_store("s3://bucket")


@pytest.mark.parametrize(
    "address", ["s3://", "s3://B", "s3://bucket/../x", "s3://me:hidden-secret@bucket", "s3://b//c"]
)
def test_a_wrong_address_is_refused_and_no_secret_repeated(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, value in VARIABLES.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigError, match="not allowed") as caught:
        open_store(address)
    assert "hidden" not in str(caught.value)


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    from edgedistill.s3_requests import S3Access
    from edgedistill.storage_s3 import S3Store

    access = S3Access.from_environment(VARIABLES)
    assert "hidden" not in repr(access)
    with pytest.raises(StorageError, match=r"http://127.0.0.1:1 did not answer .* \(Connection refused\)") as caught:
        S3Store("s3://bucket/prefix", access, patience_s=0).put("key", b"x")
    assert "hidden" not in str(caught.value)
    assert "X-Amz" not in str(caught.value)


def test_objects_are_readable_by_other_users(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a", b"x")
    store.swap("HEAD", b"x", expected=None)
    assert [oct(store.path(key).stat().st_mode & 0o777) for key in ("a", "HEAD")] == ["0o644", "0o644"]


def test_what_killed_writers_left_is_removed_in_time(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    store.put("a", b"x")
    for name, age_s in (("old", 2 * 24 * 3600), ("new", 0)):
        (tmp_path / ".tmp" / name).write_bytes(b"half")
        os.utime(tmp_path / ".tmp" / name, (time.time() - age_s,) * 2)
    assert list(store.list("")) == ["a"]
    DirectoryStore(tmp_path).put("b", b"x")
    assert [path.name for path in (tmp_path / ".tmp").iterdir()] == ["new"]


def test_a_file_size_limit_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 3_000_000)
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))"
    check_full([sys.executable], tmp_path, FULL.format(limit=limit), "File too large")


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root; a file size limit is tested above")
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"x" * 3_000_000)
    (tmp_path / "store").mkdir()
    mount = f'mount -t tmpfs -o size=2m none {tmp_path / "store"} && exec {sys.executable} "$@"'
    command = ["unshare", "--mount", "sh", "-c", mount, "sh"]
    check_full(command, tmp_path, FULL.format(limit=""), "No space left on device")


def check_full(python: list[str], folder: Path, code: str, reason: str) -> None:
    """Three writes that do not fit: each is a StorageError, and only the small object is there."""
    places = [str(folder / "store"), str(folder / "source")]
    done = subprocess.run([*python, "-c", code, *places], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:-1]] == ["put", "file", "swap"]
    assert all(reason in line for line in lines[:-1])
    assert lines[-1] == "['small'] []"
