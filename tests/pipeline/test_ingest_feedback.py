"""The fleet's pictures: training images without a label, which neither move nor judge the user's; hostile ones too."""

import io
import json
import shutil
import time
from pathlib import Path

import pytest
from PIL import Image

from components.ingest_images.source_feedback import Feedback
from edge.node.forward import FolderTarget, send
from edge.node.spool import Limits, Spool
from edgedistill.dataset import Dataset
from edgedistill.steps import Manifest
from edgedistill.storage import digest, open_store
from tests.pipeline.fleet import sent
from tests.pipeline.pictures import dataset, encoded, folder, ingest, picture, write


def rejects(made: Manifest, store: Path) -> dict[str, str]:
    """File -> kind."""
    if not made.outputs["rejects"]:
        return {}
    lines = [json.loads(line) for line in (store / made.outputs["rejects"]).read_text().splitlines()]
    return {line["file"]: line["kind"] for line in lines}


def fed(found: Dataset) -> list[str]:
    return [row.source for row in found.rows if row.source.startswith("feedback/")]


def test_they_train_without_a_label_and_move_nothing(tmp_path: Path) -> None:
    images, store = folder(tmp_path / "images", each=30), tmp_path / "store"
    before = dataset(ingest(images, store), store)
    keys = {sent(store, encoded(picture(7000 + index)), node=f"node-{index % 2}") for index in range(10)}
    sent(store, encoded(picture(7000)), node="node-9")  # the same picture from another node counts once
    made = ingest(images, store, feedback=True)
    found = dataset(made, store)
    assert {row for row in found.rows if not row.source.startswith("feedback/")} == set(before.rows)
    assert set(fed(found)) == keys
    for row in found.rows:
        if row.source in keys:
            assert (row.split, row.label, row.truth) == ("train", None, None)
    assert any("10 pictures of the fleet's feedback train the student" in note for note in made.outputs["notes"])
    assert fed(dataset(ingest(images, store), store)) == [], "off unless it is asked for"


def test_what_a_nodes_own_code_sends_is_taken_in(tmp_path: Path) -> None:
    """From the spool, through the child's code, into a revision: both sides mean the same keys and documents."""
    images, store = folder(tmp_path / "images"), tmp_path / "store"
    spool = Spool(tmp_path / "spool", Limits(reserve_bytes=0))
    about = {"release": {"name": "demo", "version": 3, "digest": "0" * 64}, "label": "cat"}
    data = [encoded(picture(7000 + index)) for index in range(3)]
    assert {spool.keep(one, "png", about) for one in data} == {"kept"}
    spool.keep(encoded(picture(7009)), "png", about | {"release": {"name": "other"}})
    spool.ask_for_a_run(about)
    assert len(list(send(spool.folder, FolderTarget(store), "shop-7", until=time.monotonic() + 60))) == 5
    found = Feedback(open_store(store), "demo")
    assert found.count == 3
    assert len(found.requests) == 1
    made = dataset(ingest(images, store, feedback=True), store)
    assert {Path(name).stem for name in fed(made)} == {digest(one) for one in data}


def test_the_steps_key_depends_on_the_pictures(tmp_path: Path) -> None:
    images, store = folder(tmp_path / "images"), tmp_path / "store"
    first = ingest(images, store, feedback=True)
    assert ingest(images, store, feedback=True).cached
    sent(store, encoded(picture(7000)))
    second = ingest(images, store, feedback=True)
    assert not second.cached
    assert second.outputs["revision"] != first.outputs["revision"]
    assert ingest(images, store, feedback=True).cached
    sent(store, encoded(picture(7001)), release="another")
    assert ingest(images, store, feedback=True).cached, "another data set's pictures are not ours"


@pytest.mark.parametrize("guarded", [True, False])
def test_what_looks_like_a_held_out_image_is_left_out(tmp_path: Path, guarded: bool) -> None:
    """A camera sees the same scene again; trained on, it would make the test too easy. False: negative control."""
    images, store = folder(tmp_path / "images", each=12), tmp_path / "store"
    held_out, trained = set(), set()
    for row in dataset(ingest(images, store), store).rows:
        with Image.open(images / row.source) as one:
            key = sent(store, encoded(one.resize((48, 48), Image.Resampling.BICUBIC), "JPEG", quality=85), kind="jpg")
        (trained if row.split == "train" else held_out).add(key)
    made = ingest(images, store, feedback=True, near_duplicates=guarded)
    found = set(fed(dataset(made, store)))
    assert trained <= found
    if guarded:
        assert not held_out & found
        assert {file for file, kind in rejects(made, store).items() if kind == "held-out"} == held_out
    else:
        assert held_out <= found, "without the guard, copies of test images are trained on"


def test_hostile_feedback_is_refused_and_stops_nothing(tmp_path: Path) -> None:
    images, store = folder(tmp_path / "images"), tmp_path / "store"
    good = sent(store, encoded(picture(7000)))
    expected = {
        sent(store, b"<html>", kind="jpg"): "no-picture",
        sent(store, b"", node="empty"): "empty",
        sent(store, encoded(picture(7001))[:-40]): "truncated",
        sent(store, _bomb()): "too-large",
        sent(store, b"\0" * ((16 << 20) + 1)): "too-big",
    }
    lying = sent(store, encoded(picture(7002)))
    write(store / lying, encoded(picture(7003)))  # other bytes below that name
    expected[lying] = "wrong-digest"
    expected[sent(store, (images / "cat" / "000.png").read_bytes())] = "duplicate"
    passed_over = [
        write(store / "feedback/node-1/20260101/not-a-digest.png", encoded(picture(7004))),
        write(store / "feedback/node-1/today" / Path(good).name, encoded(picture(7000))),
        write(store / "feedback" / Path(good).name, encoded(picture(7000))),
        write(store / "feedback/node-1/20260101/run-request.json", b"[" * 100_000),
    ]
    for index, document in enumerate((b"", b"{", b"[" * 60_000, b"null", b"[]", b'{"release":1}', b" " * 100_000)):
        key = sent(store, encoded(picture(7100 + index)))
        passed_over.append(write((store / key).with_suffix(".json"), document))
    alone = sent(store, encoded(picture(7200)))
    (store / alone).with_suffix(".json").unlink()
    made = ingest(images, store, feedback=True)
    assert fed(dataset(made, store)) == [good]
    assert rejects(made, store) == expected
    assert all(path.exists() for path in passed_over), "ingest removes nothing"


def test_without_the_check_of_digests_other_bytes_are_trained_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control."""
    images, store = folder(tmp_path / "images"), tmp_path / "store"
    lying = sent(store, encoded(picture(7002)))
    write(store / lying, encoded(picture(7003)))
    monkeypatch.setattr(Feedback, "_read", lambda source, one: source._store.get(one.key))
    assert fed(dataset(ingest(images, store, feedback=True), store)) == [lying]


def test_a_picture_that_goes_away_meanwhile_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, store = folder(tmp_path / "images"), tmp_path / "store"
    gone = sent(store, encoded(picture(7000)))
    before = Feedback.digest

    def removing(source: Feedback) -> str:
        shutil.rmtree(store / "feedback")
        return before(source)

    monkeypatch.setattr(Feedback, "digest", removing)
    assert rejects(ingest(images, store, feedback=True), store) == {gone: "absent"}


def _bomb() -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (5000, 5000)).save(buffer, "PNG")
    return buffer.getvalue()
