"""The spool: bounded, never over its budget, never the same picture twice, and whole after kill -9 and a full disk."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from edge.node.forward import FolderTarget, send
from edge.node.spool import LEDGER, REQUEST, Limits, Spool, waiting
from edgedistill.errors import StorageError
from tests.edge import proof
from tests.edge.faulty_disk import LOOKS, unreadable

ROOMY = Limits(per_day=1000, reserve_bytes=0)
DAY = 86400.0


class Clock:
    def __init__(self) -> None:
        self.now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


def names(folder: Path) -> list[str]:
    return [one.picture.stem for one in waiting(folder) if one.picture]


def test_the_budget_of_a_day_and_never_the_same_picture_twice(tmp_path: Path) -> None:
    clock = Clock()
    spool = Spool(tmp_path, Limits(per_day=3, reserve_bytes=0), now=clock)
    assert [spool.claim(name) for name in "aabcd"] == ["", "known", "", "", "over_budget"]
    assert spool.is_spent()
    again = Spool(tmp_path, Limits(per_day=3, reserve_bytes=0), now=clock)
    assert [again.claim(name) for name in "ae"] == ["known", "over_budget"], "a restart forgets nothing"
    clock.now += DAY
    assert not again.is_spent()
    assert [again.claim(name) for name in "ae"] == ["known", ""]


def test_a_broken_ledger_has_spent_its_day(tmp_path: Path) -> None:
    clock = Clock()
    for junk in (b"", b"{", b'{"day":1}', b"[]", b"null"):
        (tmp_path / LEDGER).write_bytes(junk)
        spool = Spool(tmp_path, ROOMY, now=clock)
        assert spool.claim("a") == "over_budget"
        assert spool.ask_for_a_run({}) == "known"
    clock.now += DAY
    assert Spool(tmp_path, ROOMY, now=clock).claim("a") == ""


def test_the_oldest_make_room(tmp_path: Path) -> None:
    spool = Spool(tmp_path, Limits(files=3, reserve_bytes=0))
    for index in range(5):
        assert spool.keep(b"picture %d" % index, "png", {}) == "kept"
        time.sleep(0.01)
    kept = {hashlib.sha256(b"picture %d" % index).hexdigest() for index in (2, 3, 4)}
    assert set(names(tmp_path)) == kept
    small = Spool(tmp_path, Limits(size_bytes=400, reserve_bytes=0))
    assert small.keep(b"x" * 200, "png", {}) == "kept"
    assert sum(path.stat().st_size for one in waiting(tmp_path) for path in one.files) <= 400
    assert small.keep(b"y" * 500, "png", {}) == "disk", "larger than the whole spool"


def test_it_leaves_the_disk_its_reserve(tmp_path: Path) -> None:
    assert Spool(tmp_path, Limits(reserve_bytes=1 << 60)).keep(b"x", "png", {}) == "disk"
    assert not list(waiting(tmp_path))


def test_a_run_is_asked_for_once_a_day(tmp_path: Path) -> None:
    clock = Clock()
    spool = Spool(tmp_path, ROOMY, now=clock)
    assert [spool.ask_for_a_run({"reason": "drift"}) for _ in range(3)] == ["asked", "known", "known"]
    assert [one.about.name for one in waiting(tmp_path)] == [REQUEST]
    clock.now += DAY
    assert Spool(tmp_path, ROOMY, now=clock).ask_for_a_run({"reason": "drift"}) == "asked"


def test_what_waits_is_known_without_a_look(tmp_path: Path) -> None:
    clock = Clock()
    spool = Spool(tmp_path, Limits(files=3, size_bytes=400, reserve_bytes=0), now=clock)

    def is_right() -> bool:
        return spool.waits == len(list(waiting(tmp_path)))

    assert spool.waits == 0
    for index, size in enumerate((10, 10, 10, 10, 150, 10, 500)):
        said = spool.keep(b"%d" % index * size, "png", {})
        assert said == ("disk" if size == 500 else "kept")
        assert is_right(), "whatever made room, and also when it did not suffice"
    assert spool.keep(b"1" * 10, "png", {}) == "kept"
    assert spool.keep(b"1" * 10, "png", {}) == "kept"
    assert is_right(), "the same one twice is one"
    assert spool.ask_for_a_run({}) == "asked"
    assert is_right()
    assert spool.claim("a") == ""
    again = Spool(tmp_path, ROOMY, now=clock)
    again.sweep()
    assert (again.waits, again.spent()) == (spool.waits, 1), "after a restart, too"
    assert len(list(send(tmp_path, _Away(takes=99), "n", until=time.monotonic() + 60))) == again.waits
    assert again.count() == again.waits == 0
    clock.now += DAY
    assert again.spent() == 0


@pytest.mark.parametrize("call", LOOKS)
def test_a_disk_that_fails_is_said_and_nothing_is_swept(tmp_path: Path, call: str) -> None:
    spool = Spool(tmp_path, ROOMY)
    assert spool.keep(b"picture", "png", {}) == "kept"
    with unreadable(tmp_path, call):
        for look in (spool.count, spool.sweep):
            with pytest.raises(OSError, match="Input/output error"):
                look()
        assert spool.waits == 1
        assert spool.keep(b"another", "png", {}) == "disk"
    assert spool.count() == 1, "what could not be seen is no rubbish"


def test_a_folder_that_cannot_be_listed_for_a_moment_is_not_emptied(tmp_path: Path) -> None:
    spool = Spool(tmp_path, ROOMY)
    assert spool.keep(b"picture", "png", {}) == "kept"
    real, failures = os.listdir, [OSError(5, "Input/output error")]

    def listdir(*path: Any) -> list[str]:
        if failures:
            raise failures.pop()
        return real(*path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "listdir", listdir)
        with pytest.raises(OSError, match="Input/output error"):
            spool.sweep()
    assert len(names(tmp_path)) == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system here")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_a_full_disk_costs_pictures_only(small_disk: Path) -> None:
    spool = Spool(small_disk / "feedback", ROOMY)
    said = [spool.keep(os.urandom(20_000), "png", {}) for _ in range(20)]
    assert said.count("disk") > 3
    assert said.count("kept") > 3
    assert said == sorted(said, reverse=True), "full stays full"
    for one in waiting(small_disk / "feedback"):
        assert one.picture
        assert hashlib.sha256(one.picture.read_bytes()).hexdigest() == one.picture.stem
    assert not list((small_disk / "feedback" / "tmp").iterdir())
    assert spool.claim("name" * 8) in ("", "disk")
    target = small_disk.with_name("target")
    assert len(list(send(small_disk / "feedback", FolderTarget(target), "n", until=time.monotonic() + 60))) > 3
    assert spool.keep(b"x" * 20_000, "png", {}) == "kept", "as soon as there is room again"


KEEP = """
import os, sys
from pathlib import Path
from edge.node.spool import Limits, Spool
spool = Spool(Path(sys.argv[1]), Limits(per_day=100000, files=100000, reserve_bytes=0))
spool.sweep()
print("on", flush=True)
while True:
    name = os.urandom(16).hex()
    assert spool.claim(name) == ""
    assert spool.keep(os.urandom(3000), "png", {"name": name}) == "kept"
"""


@pytest.mark.proof
def test_kill_9_leaves_whole_pairs_only(tmp_path: Path, tell: Callable[[str, str], None]) -> None:
    generator = proof.generator("feedback")
    kills = proof.size(in_ci=8, whole=100)
    kept = 0
    for _ in range(kills):
        child = subprocess.Popen([sys.executable, "-c", KEEP, str(tmp_path)], stdout=subprocess.PIPE)
        assert child.stdout
        assert child.stdout.readline() == b"on\n"
        time.sleep(generator.uniform(0, 0.05))
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
    Spool(tmp_path, ROOMY).sweep()
    files = {path for path in tmp_path.rglob("*") if path.is_file()} - {tmp_path / LEDGER}
    whole = list(waiting(tmp_path))
    assert {path for one in whole for path in one.files} == files, "nothing half-written stays"
    claimed = json.loads((tmp_path / LEDGER).read_bytes())["known"]
    said = [json.loads(one.about.read_bytes())["name"] for one in whole]
    assert len(said) == len(set(said))
    assert set(said) <= set(claimed), "what is kept was paid for"
    assert len(claimed) - len(said) <= kills, "and a kill loses one picture at most"
    kept = len(said)
    tell("P1", f"feedback spool: {kills} kills, {kept} pictures, each whole, paid for and once")


class _Away:
    """A target that takes so many objects."""

    def __init__(self, takes: int) -> None:
        self.takes, self.keys = takes, list[str]()

    def create(self, key: str, data: bytes) -> None:
        if len(self.keys) == self.takes:
            raise StorageError("away")
        self.keys.append(key)


def test_what_was_not_sent_waits_and_what_is_torn_is_dropped(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", ROOMY)
    for index in range(3):
        spool.keep(b"picture %d" % index, "png", {})
    spool.ask_for_a_run({"reason": "drift"})
    torn = next(one for one in waiting(spool.folder) if one.picture)
    assert torn.picture
    torn.picture.write_bytes(torn.picture.read_bytes()[:3])
    target = _Away(takes=3)
    with pytest.raises(StorageError):
        list(send(spool.folder, target, "node-1", until=time.monotonic() + 60))
    assert len(list(waiting(spool.folder))) == 2, (
        "one was dropped, one was sent, and one's picture but not its document"
    )
    rest = _Away(takes=99)
    list(send(spool.folder, rest, "node-1", until=time.monotonic() + 60))
    assert not list(waiting(spool.folder))
    day = torn.day
    assert {key.rpartition("/")[0] for key in target.keys + rest.keys} == {f"feedback/node-1/{day}"}
    assert any(key.endswith(REQUEST) for key in rest.keys)
    assert target.keys[0].endswith(".png"), "the picture first"


def test_a_folder_takes_a_second_copy_in_peace(tmp_path: Path) -> None:
    target = FolderTarget(tmp_path)
    for data in (b"one", b"two"):
        target.create("feedback/n/20260101/x.json", data)
    assert (tmp_path / "feedback/n/20260101/x.json").read_bytes() == b"one"
