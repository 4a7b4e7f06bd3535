"""P2: whatever a power cut leaves of what was not synced, the node boots with one complete signed release.

A real node is traced through its updates; the state folder is rebuilt as it may be after a cut at each point of the
trace, checked, and booted by the node's own code.
"""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest

from edge.node import active
from edge.node.agent import Agent, Settings
from edge.node.candidate import Candidate
from edge.node.serving import Serving
from edge.node.state import Release, State
from tests.edge import proof
from tests.edge.conftest import NodeProcess, new_publisher, node_arguments, pictures
from tests.edge.power import CALLS, VARIANTS, Call, Disk, on_disk, read_trace, write_out
from tests.edge.whole import Signed

pytestmark = [pytest.mark.proof, pytest.mark.skipif(not shutil.which("strace"), reason="needs strace: apt install it")]

VERSIONS, BAD = 3, 4


@dataclass(frozen=True)
class Recorded:
    """What a node did to its disk on its way through releases 1, 2 and 3, and when it refused 4."""

    calls: Sequence[Call]
    state: Path
    signed: Signed


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Recorded:
    tmp_path = tmp_path_factory.mktemp("traced")
    publisher = new_publisher(tmp_path)
    signed = Signed.of(publisher, VERSIONS)
    publisher.publish(change=lambda golden: golden.__setitem__(0, (golden[0][0], [9.0] * len(golden[0][1]))))
    trace, wanted = tmp_path / "trace", tmp_path / "wanted"
    wanted.write_text("1\n")
    strace = (
        "strace",
        "-D",
        "-f",
        "--seccomp-bpf",
        "-y",
        "-xx",
        "-s",
        "1000000",
        "-e",
        f"trace={CALLS}",
        "-o",
        str(trace),
    )
    arguments = [*node_arguments(publisher, tmp_path / "state"), "--version-file", str(wanted)]
    node = NodeProcess(arguments, wrapper=strace).start()
    try:
        for version in range(1, VERSIONS + 1):
            wanted.write_text(f"{version}\n")
            node.wait_version(version)
        wanted.write_text(f"{BAD}\n")
        node.wait(lambda status: bool(status["quarantined"]))
    finally:
        node.kill()
    assert node.process is not None
    for _ in range(100):
        if f"{node.process.pid} +++ killed by SIGKILL" in trace.read_text().replace("  ", " "):
            break
        time.sleep(0.1)
    return Recorded(read_trace(trace), tmp_path / "state", signed)


class _CheckedHere:
    """The child's check of signatures, in this process: hundreds of boots would start hundreds of children."""

    def __init__(self, *, memory_bytes: int) -> None:
        assert memory_bytes > 0

    def __enter__(self) -> "_CheckedHere":
        return self

    def __exit__(self, *error: object) -> None:
        return

    def verify(self, metadata: Path, root: bytes, *, manifest: Path, release: Release) -> None:
        Candidate().verify(metadata=str(metadata), root=root.hex(), manifest=str(manifest), release=asdict(release))


@pytest.fixture(autouse=True)
def _no_children(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(active, "Child", _CheckedHere)


def _boot(folder: Path, signed: Signed) -> list[str]:
    """What is wrong when the node's own code boots from this folder, with no network."""
    state, serving = State(folder), Serving()
    try:
        agent = Agent(Settings("edge-test", "tiny", "/absent", signed.root, None, 0), state, serving)
        agent.boot()
        found = [f"{state.problem}"] if state.problem else []
        found += [f"release {r.version} is in quarantine: {r.reason}" for r in state.refusals() if r.version != BAD]
        pointed, engine = agent.active.pointer.active, serving.engine
        if pointed is None:
            return found + (["serves without a pointer"] if engine else [])
        if engine is None or engine.release != pointed:
            return [*found, f"does not serve release {pointed.version}: {agent.status.last_event}"]
        return found if signed.answers_as(pointed.version, engine.logits(pictures(3))) else [*found, "wrong answers"]
    finally:
        serving.close()
        state.close()


def _active(pointer: object) -> int:
    """The active version that a pointer's bytes name; 0: none, or no pointer."""
    if not isinstance(pointer, bytes) or not pointer:
        return 0
    active = json.loads(pointer)["active"]
    return int(active["version"]) if active else 0


def _points(disk: Disk, calls: Sequence[Call]) -> Iterator[tuple[int, str, set[int]]]:
    """Replay; after each call that changes the disk: its number, its name and the versions that may be active."""
    settled = {0}
    for number, call in enumerate(calls):
        if disk.apply(call):
            inode = disk.find(f"{disk.root_path}/pointer.json")
            now = _active(inode.data if inode else None)
            settled = {now} if call.name == "fsync" and call.texts[0].decode() == disk.root_path else settled | {now}
            yield number, call.name, settled


def _violations(
    recorded: Recorded, calls: Sequence[Call], cuts: int, scratch: Path, chance: random.Random
) -> list[str]:
    """Rebuild and boot the state folder after `cuts` power cuts: all around the flips, the others at random points."""
    points = [(number, name) for number, name, _ in _points(Disk(recorded.state), calls)]
    flips = {at for at, (_, name) in enumerate(points) if name == "rename"}
    near = [points[at][0] for at in range(len(points)) if flips & {at - 2, at - 1, at, at + 1}]
    chosen = [(number, variant) for number in near for variant in VARIANTS]
    others = [(number, variant) for number, _ in points for variant in VARIANTS]
    chosen = chance.sample(chosen, min(len(chosen), cuts // 2))
    chosen += chance.sample(others, min(len(others), cuts - len(chosen)))
    disk, found = Disk(recorded.state), []
    for number, name, allowed in _points(disk, calls):
        for variant in (variant for at, variant in chosen if at == number):
            folder = scratch / "cut"
            write_out(disk.cut(variant, chance), folder)
            wrong = recorded.signed.violations(folder, allowed)
            try:
                wrong += _boot(folder, recorded.signed)
            except Exception as error:
                wrong.append(f"does not boot: {error!r}")
            found += [f"cut after call {number} ({name}), {variant}: {one}" for one in wrong]
            shutil.rmtree(folder)
    return found


def _disorder(recorded: Recorded, calls: Sequence[Call]) -> list[str]:
    """Renames into place of what is not on disk, and pointers to what is not."""
    disk, found = Disk(recorded.state), []
    for call in calls:
        paths = [text.decode(errors="replace") for text in call.texts]
        if call.name == "rename" and _is_final(paths[1].removeprefix(f"{disk.root_path}/")):
            inode = disk.find(paths[0])
            assert inode is not None
            if not disk.is_certain(inode):
                found.append(f"{paths[1]} is renamed before it is on disk")
            if paths[1].endswith("/pointer.json"):
                found += _unkept(disk, json.loads(inode.data))
        disk.apply(call)
    if any(folder is disk.root for change in disk.pending for folder, _, _ in change.names):
        found.append("the state folder is never synced after the last rename")
    return found


def _is_final(path: str) -> bool:
    """Below tmp/ and partial/ nothing is believed before it was checked again."""
    return path.startswith(("releases/", "metadata/")) or path in ("pointer.json", "quarantine.json")


def _unkept(disk: Disk, pointer: dict[str, dict[str, str] | str | None]) -> list[str]:
    active = pointer["active"]
    names = {"releases": active["digest"] if isinstance(active, dict) else None, "metadata": pointer["metadata"]}
    return [
        f"the pointer moves before {folder}/{name} is on disk"
        for folder, name in names.items()
        if name and (folder not in disk.root.certain or name not in disk.root.certain[folder].certain)
    ]


def test_after_any_power_cut_it_boots_with_one_complete_release(
    recorded: Recorded, tmp_path: Path, tell: Callable[[str, str], None]
) -> None:
    disk = Disk(recorded.state)
    changes = list(_points(disk, recorded.calls))
    assert disk.tree() == on_disk(recorded.state), "else the trace, or its reader, missed something"
    assert _disorder(recorded, recorded.calls) == []
    cuts = proof.size(100, 600)
    assert _violations(recorded, recorded.calls, cuts, tmp_path, proof.generator("P2")) == []
    tell("P2", f"{cuts} power cuts of {len(changes)} points in 3 updates and a refusal, each booted: 0 violations")


def _without(kind: str) -> Callable[[Recorded], list[Call]]:
    """The same trace without its fsyncs of files or of folders."""

    def change(recorded: Recorded) -> list[Call]:
        disk, calls = Disk(recorded.state), []
        for call in recorded.calls:
            inode = disk.find(call.texts[0].decode(errors="replace")) if call.name == "fsync" else None
            if inode is None or (inode.names is None) != (kind == "files"):
                calls.append(call)
            disk.apply(call)
        return calls

    return change


def _pointer_first(recorded: Recorded) -> list[Call]:
    """The same trace with each rename of a release after the flip that names it."""
    calls, held = [], []
    for call in recorded.calls:
        if call.name == "rename" and b"/releases/" in call.texts[1]:
            held.append(call)
            continue
        calls.append(call)
        if call.name == "fsync" and held and call.texts[0].decode() == str(recorded.state):
            calls += held
            held = []
    return calls + held


SPOILED = {"no file is synced": _without("files"), "no folder is synced": _without("folders"), "early": _pointer_first}


def test_without_the_order_the_same_checks_find_violations(recorded: Recorded, tmp_path: Path) -> None:
    """Negative controls."""
    for what, spoil in SPOILED.items():
        calls = spoil(recorded)
        assert _disorder(recorded, calls), what
        assert _violations(recorded, calls, 60, tmp_path, random.Random(1)), what
