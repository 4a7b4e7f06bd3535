"""A bucket's release as a folder that the local node reads."""

import uuid
from pathlib import Path

import pytest

from edgedistill.errors import SigningError
from edgedistill.local_copy import local_releases, local_report
from edgedistill.signing import METADATA, TARGETS, TIMESTAMP
from edgedistill.storage import DirectoryStore
from tests.minio.server import MinioServer


def test_one_release_is_copied_and_the_timestamp_moves(minio: MinioServer, tmp_path: Path) -> None:
    store = minio.store(uuid.uuid4().hex)
    with pytest.raises(SigningError, match="holds no signed releases"):
        local_releases(store, tmp_path, name="demo", version=1)
    for number in (1, 2):
        store.put(f"{METADATA}/{number}.root.json", b"root %d" % number)
        store.put(f"{TARGETS}/demo/{number}/aa.model.bin", b"model %d" % number)
    store.put(f"{TARGETS}/demo/aa.index.json", b"index")
    store.put(f"{TARGETS}/demo-other/aa.index.json", b"somebody else's")
    store.swap(TIMESTAMP, b"timestamp 1", expected=None)
    folder = local_releases(store, tmp_path, name="demo", version=1)
    copied = ["metadata/1.root.json", "metadata/2.root.json", "metadata/timestamp.json"]
    copied += ["targets/demo/1/aa.model.bin", "targets/demo/aa.index.json"]
    assert sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()) == copied
    store.swap(TIMESTAMP, b"timestamp 2", expected=b"timestamp 1")
    assert local_releases(store, tmp_path, name="demo", version=2) == folder
    assert (folder / "metadata" / "timestamp.json").read_bytes() == b"timestamp 2"
    assert (folder / "targets" / "demo" / "2" / "aa.model.bin").read_bytes() == b"model 2"
    store.close()


def test_a_bucket_that_begins_anew_gets_a_folder_of_its_own(minio: MinioServer, tmp_path: Path) -> None:
    folders = set()
    for root in (b"one", b"two"):
        store = minio.store(uuid.uuid4().hex)
        store.put(f"{METADATA}/1.root.json", root)
        store.swap(TIMESTAMP, b"timestamp", expected=None)
        folders.add(local_releases(store, tmp_path, name="demo", version=1))
        store.close()
    assert len(folders) == 2


def test_a_directory_is_read_where_it_is(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path)
    assert local_releases(store, tmp_path / "unused", name="demo", version=1) == tmp_path / "releases"
    assert local_report(store, "7", tmp_path / "unused") == tmp_path / "runs" / "7" / "report.html"
    assert not (tmp_path / "unused").exists()
