"""What an attacker does to an origin, with the keys that he has, and the one reason that a node must give for it."""

import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tuf.api.metadata import Root

from edgedistill.bundle import MANIFEST
from edgedistill.signing_keys import read_key
from edgedistill.signing_rotate import rotate_key
from tests.edge.forger import Forger, expire


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
    for key, value in (("location", "golden/000.png"), ("offset", "0"), ("length", "48")):
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


def much(manifest: dict[str, Any]) -> dict[str, Any]:
    """Each file may have a gigabyte, but not all together."""
    return manifest | {"files": {name: file | {"size_bytes": 300 << 20} for name, file in manifest["files"].items()}}


SIDE = {"name": "image", "datatype": "UINT8", "layout": "NHWC", "size": 5000, "channels": 3}
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
    "wrong key": Attack(lambda f: shutil.copytree(f.stranger, f.origin, dirs_exist_ok=True), "bad_signature"),
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
    "more than a gigabyte": Attack(lambda f: f.release(document=much), "bad_manifest", wanted=3),
    "wrong labels": Attack(
        lambda f: f.release(files=lambda files: files | {"labels.txt": b"one\ntwo\n"}), "wrong_labels", wanted=3
    ),
    "wrong input shape": Attack(with_model(bigger_input), "wrong_shape", wanted=3),
    "entity expansion": Attack(with_model(laughing), "cannot_compile", wanted=3),
    "weights from outside": Attack(with_model(outside), "cannot_compile", wanted=3),
    "a model that names files": Attack(with_model(as_onnx), "cannot_compile", wanted=3),
}
