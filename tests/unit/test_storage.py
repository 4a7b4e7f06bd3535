"""The contract of an object store, on a directory."""

from pathlib import Path

import pytest

from edgedistill.errors import ConfigError, StorageError, SwapConflict
from edgedistill.storage import open_store


def test_written_once_and_read_back(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("a/b.bin", b"one")
    store.put("a/b.bin", b"one")
    assert store.get("a/b.bin") == b"one"
    with pytest.raises(StorageError, match="already holds other bytes"):
        store.put("a/b.bin", b"two")
    assert store.get("a/b.bin") == b"one"
    assert list(store.list("a/")) == ["a/b.bin"]
    assert list(store.list("a/b")) == ["a/b.bin"]
    assert not list(tmp_path.rglob(".tmp-*")), "nothing half-written stays"


def test_a_head_file_moves_by_compare_and_swap(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.swap("HEAD", b"1", expected=None)
    store.swap("HEAD", b"2", expected=b"1")
    with pytest.raises(SwapConflict):
        store.swap("HEAD", b"3", expected=b"1")
    assert store.get("HEAD") == b"2"


@pytest.mark.parametrize("key", ["../x", "/etc/passwd", "a/../../x", "a//b", "", ".hidden", "a/./b"])
def test_a_key_cannot_leave_the_store(key: str, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not allowed"):
        open_store(tmp_path).put(key, b"x")


def test_an_unknown_kind_of_store_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="ftp://x"):
        open_store("ftp://x")
    with pytest.raises(StorageError, match="no object 'absent'"):
        open_store(tmp_path).get("absent")
