"""One contract, on a directory and on a real MinIO."""

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from edgedistill.errors import StorageError, SwapConflict
from edgedistill.storage import BLOCK, ObjectStore, digest, open_store
from edgedistill.storage_s3 import S3Store

ROUNDS = 12
HOSTILE = [
    "../x",
    "/etc/passwd",
    "a/../../x",
    "a//b",
    "",
    ".hidden",
    "a/./b",
    "a/",
    "a\nb",
    "a b",
    "ä",
    "a/.tmp/x",
    "x" * 201,
]


def test_written_once_and_read_back(store: ObjectStore) -> None:
    store.put("a/b.bin", b"one")
    store.put("a/b.bin", b"one")
    assert store.get("a/b.bin") == b"one"
    with pytest.raises(StorageError, match="already holds other bytes"):
        store.put("a/b.bin", b"two")
    assert store.get("a/b.bin") == b"one"
    assert list(store.list("a/")) == list(store.list("a/b")) == list(store.list("")) == ["a/b.bin"]


def test_a_file_goes_in_and_comes_back_in_blocks(store: ObjectStore, tmp_path: Path) -> None:
    data = bytes(range(256)) * (5 * BLOCK // 512)
    (tmp_path / "file").write_bytes(data)
    store.put_file("big/file", tmp_path / "file")
    store.put_file("big/file", tmp_path / "file")
    blocks = list(store.stream("big/file"))
    assert b"".join(blocks) == store.get("big/file") == data
    assert len(blocks) > 1
    assert max(map(len, blocks)) <= BLOCK
    assert (store.size("big/file"), store.digest("big/file")) == (len(data), digest(data))
    (tmp_path / "file").write_bytes(data[:-1])
    with pytest.raises(StorageError, match="already holds other bytes"):
        store.put_file("big/file", tmp_path / "file")
    with pytest.raises(StorageError, match="big/other"):
        store.put_file("big/other", tmp_path / "nowhere" / "file")
    assert list(store.list("big/")) == ["big/file"]


def test_an_empty_object_is_an_object(store: ObjectStore) -> None:
    store.put("empty", b"")
    assert (store.get("empty"), store.size("empty"), store.digest("empty")) == (b"", 0, digest(b""))
    assert store.exists("empty")


def test_what_is_absent_is_named(store: ObjectStore) -> None:
    readers: list[Callable[[str], object]] = [store.get, store.size, store.digest, lambda key: list(store.stream(key))]
    for read in readers:
        with pytest.raises(StorageError, match="no object 'not/there' in store"):
            read("not/there")
    assert not store.exists("not/there")
    assert list(store.list("not/")) == []
    store.delete("not/there")


def test_delete_removes_one_object(store: ObjectStore) -> None:
    store.put("a/1", b"1")
    store.put("a/2", b"2")
    store.delete("a/1")
    assert not store.exists("a/1")
    assert list(store.list("")) == ["a/2"]
    store.put("a/1", b"other bytes are fine now")


@pytest.mark.parametrize("key", HOSTILE)
def test_a_key_cannot_leave_the_store(store: ObjectStore, key: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: store.put(key, b"x"),
        lambda: store.get(key),
        lambda: store.exists(key),
        lambda: store.delete(key),
        lambda: store.swap(key, b"x", expected=None),
    ]
    for call in calls:
        with pytest.raises(StorageError, match="not allowed"):
            call()


@pytest.mark.parametrize("prefix", ["../", "/", "a/../", ".tmp/", "a//"])
def test_a_listing_cannot_leave_the_store(store: ObjectStore, prefix: str) -> None:
    with pytest.raises(StorageError, match="not allowed"):
        store.list(prefix)


def test_unusual_keys_are_kept(store: ObjectStore) -> None:
    keys = ["a/b@c=d", "a/_x/y..z", "a/b-c.d", "a/b/c", "x" * 200, "/".join(["y" * 99] * 7)]
    for key in keys:
        store.put(key, key.encode())
    assert list(store.list("")) == sorted(keys)
    assert [store.get(key) for key in keys] == [key.encode() for key in keys]


def test_a_listing_is_sorted_and_complete(store: ObjectStore) -> None:
    keys = [f"many/{number % 7}/{number}" for number in range(1_100)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda key: store.put(key, b""), keys))
    assert list(store.list("many/")) == sorted(keys)
    assert list(store.list("many/3/9")) == sorted(key for key in keys if key.startswith("many/3/9"))


def test_a_listing_tells_size_and_age(store: ObjectStore) -> None:
    before = time.time()
    store.put("a/one", b"x" * 10)
    store.put("b/two", b"")
    found = {entry.key: entry for entry in store.entries("")}
    assert {key: entry.size for key, entry in found.items()} == {"a/one": 10, "b/two": 0}
    assert all(abs(entry.modified - before) < 60 for entry in found.values())
    assert [entry.key for entry in store.entries("a/")] == ["a/one"]
    assert list(store.entries("c/")) == []


def test_a_head_file_moves_by_compare_and_swap(store: ObjectStore) -> None:
    with pytest.raises(SwapConflict):
        store.swap("HEAD", b"1", expected=b"0")
    store.swap("HEAD", b"1", expected=None)
    with pytest.raises(SwapConflict):
        store.swap("HEAD", b"2", expected=None)
    store.swap("HEAD", b"2", expected=b"1")
    with pytest.raises(SwapConflict):
        store.swap("HEAD", b"3", expected=b"1")
    assert store.get("HEAD") == b"2"


def test_of_two_writers_one_wins(address: str) -> None:
    def write(number: int, key: str) -> None:
        stores[number].put(key, bytes([number]) * 2000)

    stores = [open_store(address), open_store(address)]
    for turn in range(ROUNDS):
        won = together(write, f"race/{turn}")
        assert len(won) == 1
        assert stores[0].get(f"race/{turn}") == bytes(won) * 2000


def test_of_two_swaps_one_wins(address: str) -> None:
    def swap(number: int, key: str) -> None:
        stores[number].swap(key, heads[-1] + bytes([number]), expected=heads[-1])

    stores, heads = [open_store(address), open_store(address)], [b"0"]
    stores[0].swap("HEAD", b"0", expected=None)
    for _ in range(ROUNDS):
        won = together(swap, "HEAD")
        assert len(won) == 1
        heads.append(heads[-1] + bytes(won))
        assert stores[0].get("HEAD") == heads[-1]


def together(call: Callable[[int, str], None], key: str) -> list[int]:
    """Both writers at once; the numbers of those that were told that they succeeded."""
    won: list[int] = []
    barrier = threading.Barrier(2)

    def one(number: int) -> None:
        barrier.wait(10)
        try:
            call(number, key)
        except StorageError:
            return
        won.append(number)

    threads = [threading.Thread(target=one, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return won


def test_the_race_is_seen_without_the_guards(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: a bucket's PUT without its condition; a rename, which replaces, instead of a link."""
    send = S3Store._send

    def careless(store: S3Store, method: str, key: str, **options: Any) -> Any:
        options["headers"] = {n: v for n, v in options.get("headers", {}).items() if not n.startswith("If-")}
        return send(store, method, key, **options)

    def write(number: int, key: str) -> None:
        stores[number].put(key, bytes([number]) * 2000)

    monkeypatch.setattr(S3Store, "_send", careless)
    monkeypatch.setattr(os, "link", os.replace)
    stores = [open_store(address), open_store(address)]
    assert len(together(write, "race/1")) == 2
