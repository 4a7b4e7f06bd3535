"""P10: a full, read-only or failing disk: the old release serves, temporaries go, recovery without help."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.edge import proof
from tests.edge.conftest import Publisher, StartNode, node_arguments
from tests.edge.faulty_disk import OnFaultyDisk, Tmpfs, can_mount, failing, tmpfs
from tests.edge.whole import Signed

pytestmark = [
    pytest.mark.proof,
    pytest.mark.skipif(not can_mount(), reason="needs root to mount a small tmpfs: run as root"),
    pytest.mark.skipif(not shutil.which("strace"), reason="needs strace: apt install it"),
]

DISK_BYTES = 4 << 20
ENOUGH = 60  # pages: more than an update of the tiny release takes
SYNCS = 30  # about as many as an update does


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Tmpfs]:
    with tmpfs(tmp_path / "disk", size_bytes=DISK_BYTES) as mounted:
        yield mounted


@pytest.fixture
def faulty(publisher: Publisher, start_node: StartNode, disk: Tmpfs, tmp_path: Path) -> OnFaultyDisk:
    """Release 1 of 3 is served from the small disk."""
    signed = Signed.of(publisher, 3)
    wanted = tmp_path / "wanted"
    wanted.write_text("1\n")
    node = start_node("--version-file", str(wanted), state="disk/state")
    node.wait_version(1)
    return OnFaultyDisk(node, disk.root / "state", wanted, signed)


def test_a_disk_that_is_full_at_any_step_of_an_update(
    faulty: OnFaultyDisk, disk: Tmpfs, tell: Callable[[str, str], None]
) -> None:
    troubles, pages = 0, 0
    while pages < ENOUGH:
        disk.fill(free_pages=pages)
        old, new = faulty.update()
        status = faulty.node.wait(lambda s, new=new: _is_full(s) or s["active"]["version"] == new)  # type: ignore[misc]
        if status["active"]["version"] == new:
            break
        faulty.wait_trouble("disk_full", old)
        disk.free()
        faulty.recovers(new)
        assert faulty.leftovers() == []
        troubles, pages = troubles + 1, pages + proof.size(4, 1)
    assert troubles >= 4
    assert pages < ENOUGH, "an update takes more than is thought here"
    tell("P10", f"disk full at {troubles} points of an update: {troubles} served on, said disk_full and recovered")


def _is_full(status: dict[str, dict[str, str]]) -> bool:
    return status["last_event"].get("reason") == "disk_full"


def test_a_disk_that_is_full_or_read_only_at_boot_or_meanwhile(
    faulty: OnFaultyDisk, disk: Tmpfs, start_node: StartNode, tell: Callable[[str, str], None]
) -> None:
    disk.fill(free_pages=0)
    faulty.node.kill()
    faulty.node = start_node("--version-file", str(faulty.wanted), state="disk/state")
    faulty.wait_trouble("disk_full", 1)  # it is on probation: the start has to be written down
    disk.free()
    faulty.recovers(faulty.update()[1])

    disk.remount("ro")
    old, new = faulty.update()
    faulty.wait_trouble("disk_read_only", old)
    faulty.node.kill()
    faulty.node = start_node("--version-file", str(faulty.wanted), state="disk/state")
    faulty.wait_trouble("disk_read_only", old)
    disk.remount("rw")
    faulty.recovers(new)
    tell("P10", "full at boot, read-only, read-only at boot: each served on and recovered")


CALLS = ("fsync", "rename", "mkdir", "unlinkat")


def test_a_disk_that_fails(faulty: OnFaultyDisk, tmp_path: Path, tell: Callable[[str, str], None]) -> None:
    assert faulty.node.process is not None
    pid, log, injected = faulty.node.process.pid, tmp_path / "strace", 0
    for call in CALLS:
        with failing(pid, call, log):
            old, new = faulty.update()
            faulty.wait_trouble("disk_error", new if call == "unlinkat" else old)  # only what is old cannot go
        faulty.recovers(new)
        injected += log.read_text().count("(INJECTED)")
    coming = faulty.signed.digests[faulty.next()]
    with failing(pid, "write", log, path=faulty.state / "partial" / coming / "model.bin.part"):  # the child's
        old, new = faulty.update()
        faulty.wait_trouble("disk_error", old)
    faulty.recovers(new)
    injected += log.read_text().count("(INJECTED)")
    for when in proof.generator("P10").sample(range(1, SYNCS), proof.size(3, SYNCS - 1)):
        with failing(pid, "fsync", log, when=str(when)):
            old, new = faulty.update()
            faulty.recovers(new)  # once in each thread; the next try goes well
        injected += log.read_text().count("(INJECTED)")
    faulty.node.wait(lambda status: not faulty.leftovers())
    tell("P10", f"EIO by fsync, rename, mkdir, unlink and write, {injected} times: served on and recovered")


def test_what_cannot_be_read_at_boot_is_fetched_again(
    faulty: OnFaultyDisk, tmp_path: Path, start_node: StartNode
) -> None:
    model = faulty.state / "releases" / faulty.signed.digests[2] / "model.bin"
    faulty.recovers(faulty.update()[1])
    faulty.node.kill()
    strace = ("strace", "-D", "-f", "-qq", "-o", str(tmp_path / "strace"), "-P", str(model), "-e", "trace=read")
    inject = ("-e", "inject=read:error=EIO")
    faulty.node = start_node("--version-file", str(faulty.wanted), state="disk/state", wrapper=(*strace, *inject))
    faulty.wait_trouble("disk_error", 1)
    assert faulty.node.process is not None
    status = Path(f"/proc/{faulty.node.process.pid}/status").read_text()
    os.kill(int(status.split("TracerPid:")[1].split()[0]), signal.SIGKILL)  # the disk is well again
    faulty.recovers(2)
    assert "(INJECTED)" in (tmp_path / "strace").read_text()


def test_without_the_guard_a_full_disk_is_a_fault_that_nobody_can_read(
    publisher: Publisher, start_node: StartNode, disk: Tmpfs, tmp_path: Path
) -> None:
    """Negative control."""
    signed = Signed.of(publisher, 2)
    wanted = tmp_path / "wanted"
    wanted.write_text("1\n")
    node = start_node("--version-file", str(wanted), state="disk/state", module="tests.edge.drivers.no_disk_trouble")
    node.wait_version(1)
    faulty = OnFaultyDisk(node, disk.root / "state", wanted, signed)
    disk.fill(free_pages=0)
    faulty.update()
    seen = node.wait(lambda s: s["last_event"]["reason"] not in ("activated", "unreachable"))
    assert seen["last_event"]["reason"] == "internal_error", "with the guard: disk_full"


def test_two_nodes_on_one_folder_and_a_damaged_pointer_are_one_sentence(
    faulty: OnFaultyDisk, publisher: Publisher
) -> None:
    command = [sys.executable, "-m", "edge.node", *node_arguments(publisher, faulty.state)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert second.returncode == 1
    assert "in use by another node" in second.stderr
    assert second.stderr.count("\n") == 1
    faulty.answers(1)
    faulty.node.kill()
    (faulty.state / "pointer.json").write_bytes(b"{")
    damaged = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert damaged.returncode == 1
    assert "pointer.json is damaged" in damaged.stderr
    assert damaged.stderr.count("\n") == 1
