"""The node's state folder when the disk or somebody else spoils it. Power cuts: tests/edge/test_power_cut.py."""

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.node import state as module
from edge.node.disk import DiskTrouble
from edge.node.state import Pointer, Refusal, Release, State
from edgedistill.errors import NodeError

A, B, C = (Release("tiny", version, letter * 64) for version, letter in ((1, "a"), (2, "b"), (3, "c")))
OLD, NEW = Pointer(A, None, "0" * 20), Pointer(B, A, "1" * 20, probation=True)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    opened = State(tmp_path / "state")
    yield opened
    opened.close()


def _again(state: State) -> State:
    state.close()
    state.__init__(state.root)  # type: ignore[misc] - as a new process would see it
    return state


def _hold(state: State, *releases: Release) -> None:
    for release in releases:
        folder = state.scratch("candidate")
        (folder / "model.bin").write_bytes(release.digest.encode())
        state.keep(folder, state.folder(release))


def test_what_was_flipped_is_read_again(state: State) -> None:
    state.flip(NEW)
    assert _again(state).pointer() == NEW


def test_one_folder_serves_one_node(state: State) -> None:
    with pytest.raises(NodeError, match="in use by another node"):
        State(state.root)
    state.close()
    second = State(state.root)
    second.close()
    state._handle = os.open(state.root, os.O_RDONLY)  # the fixture closes it again


@pytest.mark.parametrize("spoiled", [b"", b"{", b"[]", b'{"active": 5}', b'{"active": null, "previous": null, "x": 1}'])
def test_a_damaged_pointer_is_one_sentence(state: State, spoiled: bytes) -> None:
    (state.root / "pointer.json").write_bytes(spoiled)
    with pytest.raises(NodeError, match=r"pointer\.json is damaged .* remove the state folder"):
        _again(state)
    state._handle = os.open(state.root, os.O_RDONLY)


@pytest.mark.parametrize("spoiled", [b"", b"{", b"[5]", b'[{"version": 1}]', b"[" * 100_000])
def test_a_damaged_quarantine_stops_nothing(state: State, spoiled: bytes) -> None:
    (state.root / "quarantine.json").write_bytes(spoiled)
    assert _again(state).refusals() == ()
    assert state.problem is not None
    assert state.problem.reason == "damaged_quarantine"
    refusal = Refusal(1, A.digest, "wrong_answer", "it is bad")
    state.quarantine(refusal)
    assert _again(state).refusals() == (refusal,)
    assert state.problem is None


def _fail(monkeypatch: pytest.MonkeyPatch, where: Path, code: int) -> None:
    def sync(path: Path) -> None:
        if path == where:
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(module, "sync", sync)


def test_a_flip_that_fails_before_its_rename_leaves_the_old_pointer(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hold(state, A, B)
    state.flip(OLD)
    _fail(monkeypatch, state.root / "tmp" / "pointer.json", errno.ENOSPC)
    with pytest.raises(DiskTrouble, match="the disk is full") as caught:
        state.flip(NEW)
    assert caught.value.reason == "disk_full"
    state.sweep(state.pointer())
    assert [path.name for path in (state.root / "releases").iterdir()] == [A.digest], (
        "the new one's space is free again"
    )
    assert _again(state).pointer() == OLD


def test_a_flip_that_may_be_on_disk_is_taken_back_and_until_then_nothing_it_names_is_swept(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    _hold(state, A, B, C)
    state.flip(OLD)
    _fail(monkeypatch, state.root, errno.EIO)
    for _ in range(3):
        with pytest.raises(DiskTrouble):
            state.flip(NEW)
        state.settle()
    assert state.pointer() == OLD
    state.sweep(OLD)
    assert {path.name for path in (state.root / "releases").iterdir()} == {A.digest, B.digest}
    monkeypatch.undo()
    state.settle()
    assert [path.name for path in (state.root / "releases").iterdir()] == [A.digest]
    assert json.loads((state.root / "pointer.json").read_bytes())["active"]["version"] == 1


def test_what_the_disk_refuses_is_held_and_written_later(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    refusal = Refusal(2, B.digest, "died", "it ended three starts")
    _fail(monkeypatch, state.root / "tmp" / "quarantine.json", errno.EROFS)
    state.quarantine(refusal)
    assert state.refusals() == (refusal,)
    assert state.problem is not None
    assert state.problem.reason == "disk_read_only"
    state.settle()
    assert state.problem is not None, "still to be written"
    monkeypatch.undo()
    state.settle()
    assert state.problem is None
    assert _again(state).refusals() == (refusal,)


def test_a_failed_write_can_be_remembered(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    _fail(monkeypatch, state.root / "tmp" / "pointer.json", errno.EIO)
    state.remember(NEW)
    assert state.pointer() == NEW
    monkeypatch.undo()
    state.settle()
    assert _again(state).pointer() == NEW


def test_a_folder_that_lacks_a_part_on_a_full_disk_opens_and_is_mended_later(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    state.flip(OLD)
    (state.root / "partial").rmdir()

    def full(path: Path) -> None:
        if not path.is_dir():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(module, "make_folders", full)
    assert _again(state).pointer() == OLD
    assert state.problem is not None
    assert state.problem.reason == "disk_full"
    monkeypatch.undo()
    state.settle()
    assert (state.root / "partial").is_dir()


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeError, match="cannot be used"):
        State(tmp_path / "file" / "state")
