"""P5: whatever an origin offers, a node never runs what was not signed for it, and goes on with what it serves.

Attacks by who only has the origin, and by who has keys too and signs properly; each against a node that runs, one whose
stored metadata a power cut truncated, and one that booted offline. The node is the real agent, engine and child; the
child's code runs in this process, but for the sample over HTTP.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tuf.api.metadata import Root

from edge.node import agent as agent_module
from edge.node.agent import Agent, Settings
from edge.node.candidate import Candidate
from edge.node.child import Child
from edge.node.engine import Serving
from edge.node.state import State
from edgedistill import signing
from edgedistill.bundle import MANIFEST
from edgedistill.signing_keys import read_key
from edgedistill.signing_rotate import rotate_key
from edgedistill.storage import open_store
from tests.edge import proof
from tests.edge.conftest import Publisher
from tests.edge.forger import Forger, expire

pytestmark = pytest.mark.proof
CONDITIONS = ("running", "after a power cut", "after an offline boot")
GROWTH_MB, DECIDED_S = 64, 5.0


@dataclass(frozen=True)
class World:
    """Two releases, older states of the repository, and the state folder of a node that serves the first."""

    folder: Path
    root: bytes
    stranger: Path  # another repository with the same releases

    def forger(self, folder: Path) -> Forger:
        """A copy to do harm to."""
        shutil.copytree(self.folder / "store" / "releases", folder / "store" / "releases")
        shutil.copytree(self.folder / "keys", folder / "keys")
        return Forger(folder / "store" / "releases", self.folder / "older", folder / "keys")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    folder = tmp_path_factory.mktemp("world")
    publishers = []
    for name in ("", "stranger"):
        base = folder / name
        store = open_store(base / "store")
        signing.init_repository(store, base / "keys", root_keys=2, root_threshold=2)
        publishers.append(Publisher(base, store, base / "keys"))
        publishers[-1].publish(seed=1)
    own, stranger = publishers
    shutil.copytree(own.releases, folder / "older")
    signing.refresh(own.store, own.keys)
    world = World(folder, signing.root_bytes(own.store), stranger.releases)
    with pytest.MonkeyPatch.context() as patch:
        in_process(patch)
        node = Node(world, folder / "state", own.releases, wanted=1)
        node.look(lambda: node.version == 1)
        node.close()
    for publisher in publishers:
        publisher.publish(seed=2)
    return world


class InProcess(Child):
    """The child's code in this process."""

    def __init__(self, is_wanted: Callable[[], bool] = lambda: True, *, memory_bytes: int = 0) -> None:
        self._candidate, self._is_wanted, self._said = Candidate(), is_wanted, b""
        self._process: Any = SimpleNamespace(stdin=self)

    def write(self, line: bytes) -> None:
        self._said = json.dumps(self._candidate.answer(json.loads(line))).encode()

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _line(self, deadline: float) -> bytes:
        return self._said


def in_process(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(agent_module, "Child", InProcess)
    patch.setattr("edge.node.candidate.give_way", lambda: None)


class Node:
    """An agent with its state folder, and every event it told."""

    def __init__(self, world: World, state: Path, origin: Path | str, *, wanted: int) -> None:
        self.wanted = state.parent / "wanted"
        self.wanted.write_text(str(wanted))
        settings = Settings("edge-test", "tiny", str(origin), world.root, self.wanted, 0, poll_s=0.01)
        self.state = State(state)
        self.agent = Agent(settings, self.state, Serving())
        self.events: list[str] = []
        told = self.agent.status.event

        def event(reason: str, message: str) -> None:
            self.events.append(reason)
            told(reason, message)

        self.agent.status.event = event  # type: ignore[method-assign]
        self.agent.boot()

    @property
    def version(self) -> int:
        engine = self.agent.serving.engine
        return engine.release.version if engine else 0

    def look(self, until: Callable[[], bool], timeout_s: float = 20.0) -> float:
        """Rounds until something is so; the seconds that took."""
        begun = time.monotonic()
        while not until():
            assert time.monotonic() - begun < timeout_s, f"not reached: {self.events} {self.agent.describe()}"
            self.agent.step()
            time.sleep(0.01)
        return time.monotonic() - begun

    def close(self) -> None:
        self.agent.serving.close()
        self.state.close()


@dataclass(frozen=True)
class Attack:
    """What is done to the origin, and the one reason that the node gives."""

    change: Callable[[Forger], object]
    reason: str
    wanted: int = 2
    passes: bool = True  # when the origin is honest again, release 2 is taken: no release was at fault


def spoil(path: str, change: Callable[[bytes], bytes]) -> Callable[[Forger], object]:
    """Other bytes at the place of a signed target."""
    return lambda forger: forger.target(path).write_bytes(change(forger.target(path).read_bytes()))


def flip(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def endless(path: Path) -> None:
    """8 GB that occupy no disk."""
    os.truncate(path, 8 << 30)


def link(forger: Forger, target: str) -> None:
    path = forger.target("tiny/2/model.bin")
    path.unlink()
    path.symlink_to(target)


def with_other_metadata(forger: Forger) -> None:
    """The newest timestamp with the snapshot of before."""
    head = forger.head()
    number = head.snapshot.signed.version
    forger.metadata(f"{number}.snapshot.json").write_bytes(forger.metadata(f"{number - 1}.snapshot.json").read_bytes())


def revoked(forger: Forger) -> None:
    aside = rotate_key(forger.store, forger.keys, "timestamp").aside
    assert aside is not None
    forger.sign_timestamp(read_key(aside), change=lambda content: None)


def below_threshold(forger: Forger) -> None:
    """The thief has one of the two root keys, and makes himself the only one."""
    thief = forger.key("root")

    def change(root: Root) -> None:
        root.roles["root"].keyids, root.roles["root"].threshold = [thief.public_key.keyid], 1

    forger.sign_root([thief], change=change)


def padded(forger: Forger) -> None:
    """A rightly signed timestamp.json, but for 1 MB of spaces after it: the signature does not count them."""
    path = forger.metadata("timestamp.json")
    path.write_bytes(path.read_bytes() + b" " * (1 << 20))


def listed_elsewhere(forger: Forger) -> None:
    forger.publish({}, index=lambda index: index | {"releases": index["releases"] | {"2": "../../../up"}})


def with_file(name: str) -> Callable[[Forger], None]:
    return lambda forger: forger.release(files=lambda files: files | {name: b"payload"})


def with_model(xml: Callable[[bytes], bytes], weights: Callable[[bytes], bytes] = lambda data: data) -> Any:
    return lambda forger: forger.release(
        files=lambda f: f | {"model.xml": xml(f["model.xml"]), "model.bin": weights(f["model.bin"])}
    )


def bigger_input(xml: bytes) -> bytes:
    """The input of the graph is 16 pixels a side, the manifest says 8."""
    return re.sub(rb"(<dim>|,)8(</dim>|,|\")", rb"\g<1>16\g<2>", xml.replace(b"8,8,3", b"16,16,3")).replace(
        b"<dim>8</dim>", b"<dim>16</dim>"
    )


def huge(xml: bytes) -> bytes:
    """The labels' constant claims a shape of 10^13 elements."""
    return re.sub(rb'shape="3, ?4"', b'shape="3000000, 4000000"', xml)


def outside(xml: bytes) -> bytes:
    """A constant's data begin far behind the end of model.bin."""
    return re.sub(rb'offset="\d+"', b'offset="1099511627776"', xml)


def laughing(xml: bytes) -> bytes:
    """Entities that expand to 3 GB, where a name is wanted."""
    levels = "".join(f'<!ENTITY l{i} "{f"&l{i - 1};" * 10}">' for i in range(1, 10))
    doctype = f'<!DOCTYPE net [<!ENTITY l0 "ha!">{levels}]>'.encode()
    return xml.replace(b"?>", b"?>" + doctype, 1).replace(b'name="tiny"', b'name="&l9;"', 1)


def as_onnx(xml: bytes) -> bytes:
    """Another format under the IR's name, whose weights are a file that it names."""
    from onnx import TensorProto, helper

    weights = helper.make_tensor("w", TensorProto.FLOAT, [3, 4], [0.0] * 12)
    del weights.float_data[:]
    weights.data_location = TensorProto.EXTERNAL
    for key, value in (("location", "labels.txt"), ("offset", "0"), ("length", "48")):
        entry = weights.external_data.add()
        entry.key, entry.value = key, value
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["n", 8, 8, 3])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", 4])
    nodes = [
        helper.make_node("Cast", ["image"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["f"], ["m"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["m", "w"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "g", [image], [logits], [weights])
    data: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8
    ).SerializeToString()
    return data


def document(**changes: Any) -> Callable[[Forger], None]:
    return lambda forger: forger.release(document=lambda old: old | changes)


SIDE = {"name": "image", "datatype": "UINT8", "layout": "NHWC", "size": 2_000_000, "channels": 3}
BIN, XML = "tiny/2/model.bin", "tiny/2/model.xml"
ATTACKS = {
    # who has the origin
    "flipped bit": Attack(spoil(BIN, flip), "wrong_digest", passes=False),
    "truncated": Attack(spoil(XML, lambda data: data[:-10]), "wrong_digest", passes=False),
    "extended": Attack(spoil(BIN, lambda data: data + b"x"), "wrong_digest", passes=False),
    "swapped file": Attack(
        lambda f: f.target(BIN).write_bytes(f.target("tiny/1/model.bin").read_bytes()), "wrong_digest", passes=False
    ),
    "right length but corrupt": Attack(spoil(BIN, lambda data: bytes(len(data))), "wrong_digest", passes=False),
    "endless target": Attack(lambda f: endless(f.target(BIN)), "wrong_digest", passes=False),
    "symlink to a file of the node": Attack(lambda f: link(f, "/etc/passwd"), "wrong_digest", passes=False),
    "symlink to a device": Attack(lambda f: link(f, "/dev/zero"), "missing_file"),
    "missing file": Attack(lambda f: f.target(BIN).unlink(), "missing_file"),
    "missing metadata": Attack(
        lambda f: f.metadata(f"{f.head().releases.signed.version}.releases.json").unlink(), "missing_file"
    ),
    "wrong key": Attack(lambda f: shutil.copytree(WRONG[0], f.origin, dirs_exist_ok=True), "bad_signature"),
    "older metadata": Attack(Forger.replay, "old_metadata"),
    "mix of two snapshots": Attack(with_other_metadata, "wrong_digest"),
    "endless timestamp": Attack(lambda f: endless(f.metadata("timestamp.json")), "bad_metadata"),
    "endless root": Attack(
        lambda f: [f.metadata("2.root.json").touch(), endless(f.metadata("2.root.json"))], "bad_metadata"
    ),
    "padded timestamp": Attack(padded, "bad_metadata"),
    "deep JSON": Attack(lambda f: f.metadata("timestamp.json").write_bytes(b"[" * 16_000), "bad_metadata"),
    # who has the timestamp's key, or one of two root keys
    "expired metadata": Attack(lambda f: f.sign_timestamp(f.key("timestamp"), change=expire), "expired_metadata"),
    "revoked key": Attack(revoked, "bad_signature"),
    "threshold not met": Attack(below_threshold, "bad_signature"),
    # who has a publisher's keys
    "another digest of a version": Attack(
        lambda f: f.publish({}, index=lambda i: i | {"releases": i["releases"] | {"2": i["releases"]["1"]}}),
        "wrong_digest",
        passes=False,
    ),
    "digest that is a path": Attack(listed_elsewhere, "bad_metadata"),
    "release 1 under another number": Attack(
        lambda f: f.release(
            files=lambda _: f.bundle(1), document=lambda _: json.loads(f.target(f"tiny/1/{MANIFEST}").read_bytes())
        ),
        "mix_and_match",
        wanted=3,
    ),
    "manifest of another length": Attack(
        lambda f: f.release(
            document=lambda d: d | {"files": d["files"] | {"model.bin": {"sha256": "0" * 64, "size_bytes": 9}}}
        ),
        "mix_and_match",
        wanted=3,
    ),
    "extra file": Attack(with_file("run.py"), "bad_manifest", wanted=3),
    "path with ..": Attack(with_file("golden/../../../up.png"), "bad_manifest", wanted=3),
    "absolute path": Attack(with_file("/tmp/up.png"), "bad_manifest", wanted=3),
    "case collision": Attack(with_file("Model.xml"), "bad_manifest", wanted=3),
    "huge dims in the manifest": Attack(document(input=SIDE), "bad_manifest", wanted=3),
    "huge dims in the model": Attack(with_model(huge), "cannot_compile", wanted=3),
    "wrong labels": Attack(
        lambda f: f.release(files=lambda files: files | {"labels.txt": b"one\ntwo\n"}), "wrong_labels", wanted=3
    ),
    "wrong input shape": Attack(with_model(bigger_input), "wrong_shape", wanted=3),
    "entity expansion": Attack(with_model(laughing), "cannot_compile", wanted=3),
    "weights from outside": Attack(with_model(outside), "cannot_compile", wanted=3),
    "a model that names files": Attack(with_model(as_onnx), "cannot_compile", wanted=3),
}
WRONG: list[Path] = []  # the stranger's repository


@dataclass(frozen=True)
class Outcome:
    version: int  # served
    reasons: tuple[str, ...]  # of the events, each once
    seconds: float  # until the first
    grown_mb: float


def attacked(
    world: World, folder: Path, attack: Attack, patch: pytest.MonkeyPatch, condition: str = "running"
) -> Outcome:
    """A node that serves release 1 is told to take the next one while the origin is in an attacker's hands."""
    WRONG[:] = [world.stranger]
    in_process(patch)
    forger = world.forger(folder)
    attack.change(forger)
    shutil.copytree(world.folder / "state", folder / "state", symlinks=True)
    hidden = forger.origin.rename(folder / "hidden") if "offline" in condition else None
    if "power cut" in condition:
        truncate(folder / "state")
    node = Node(world, folder / "state", forger.origin, wanted=attack.wanted)
    assert node.version == 1, f"booted: {node.events}"
    if hidden:
        node.look(lambda: "unreachable" in node.events)
        hidden.rename(forger.origin)
    node.events.clear()
    before = memory_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    seconds = node.look(lambda: bool(set(node.events) - {"unreachable"}))
    grown = memory_mb("VmHWM") - before
    for _ in range(3):
        node.agent.step()
    outcome = Outcome(node.version, tuple(dict.fromkeys(e for e in node.events if e != "unreachable")), seconds, grown)
    if outcome.reasons == (attack.reason,) and attack.passes and attack.wanted == 2:
        shutil.rmtree(forger.origin)
        shutil.copytree(world.folder / "store" / "releases", forger.origin)
        node.wanted.write_text("2")
        node.look(lambda: node.version == 2)
    node.close()
    return outcome


def truncate(state: Path) -> None:
    """Half of each metadata file that the node goes by, as a disk leaves it that lied about what it had written."""
    number = json.loads((state / "pointer.json").read_bytes())["metadata"]
    for path in (state / "metadata" / number).rglob("*.json"):
        if not path.is_symlink():
            os.truncate(path, path.stat().st_size // 2)


def memory_mb(field: str) -> float:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


@pytest.mark.parametrize("condition", CONDITIONS)
def test_the_old_release_serves_on_with_one_reason(
    condition: str, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tell: Callable[[str, str], None]
) -> None:
    wrong = {}
    worst_s = worst_mb = 0.0
    names = list(ATTACKS)
    if condition != CONDITIONS[0]:
        names = proof.generator(f"P5 {condition}").sample(names, proof.size(12, len(names)))
    for number, name in enumerate(names):
        attack = ATTACKS[name]
        outcome = attacked(world, tmp_path / str(number), attack, monkeypatch, condition)
        worst_s, worst_mb = max(worst_s, outcome.seconds), max(worst_mb, outcome.grown_mb)
        is_quick = outcome.seconds <= DECIDED_S and outcome.grown_mb <= GROWTH_MB
        if not is_quick or (outcome.version, outcome.reasons) != (1, (attack.reason,)):
            wrong[name] = outcome
        shutil.rmtree(tmp_path / str(number))
    assert not wrong
    tell(
        "P5",
        f"{len(names)} of {len(ATTACKS)} attacks on a node {condition}: all refused in <= {worst_s:.1f} s, +{worst_mb:.0f} MB",
    )
