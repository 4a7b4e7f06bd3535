"""What gc removes and what it must not: every root has a test that fails without it."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgedistill import collect
from edgedistill.answers import write_answers
from edgedistill.bundle import write_bundle
from edgedistill.cli import cli
from edgedistill.collect import plan, remove
from edgedistill.dataset import ImageRow, to_parquet
from edgedistill.errors import CollectError
from edgedistill.images import encode_png
from edgedistill.signing import init_repository, publish, withdraw
from edgedistill.steps import Manifest, Step
from edgedistill.storage import DirectoryStore, ObjectStore, canonical_json, digest, pretty_json

OLD_S = 3 * collect.DAY_S


def step(store: ObjectStore, name: str, key: str, outputs: dict[str, Any]) -> Manifest:
    return Step(store, name, key).finish(outputs)


def make_run(store: ObjectStore, number: int) -> dict[str, Manifest]:
    """A run's objects, manifests and record: a revision of one shared and one own picture, scores, a student."""
    own = f"datasets/demo/images/{number}.png"
    for key in ("datasets/demo/images/shared.png", own):
        store.put(key, key.encode())
    rows = [ImageRow(k, k, None, None, "test", 1, 1, k) for k in ("datasets/demo/images/shared.png", own)]
    table = f"datasets/demo/revisions/{number}.parquet"
    store.put(table, to_parquet(rows))
    for key in ("scores/t/p/shared.parquet", f"scores/t/p/{number}.parquet", f"students/{number}.safetensors"):
        store.put(key, key.encode())
    golden = canonical_json([{"key": own, "logits": [number]}])
    store.put(f"golden/{number}.json", golden)
    logits = np.eye(2, dtype=np.float32) * (number + 1)
    answers = write_answers(store, rows, np.array([0, 1]), {"teacher": logits, "student_int8": logits})
    store.put(f"teachers/maps/{number}.csv", f"map {number}".encode())
    store.put(f"teachers/t/{number}/t/1/model.onnx", f"teacher {number}".encode())
    made = {
        "ingest_images": {"table": table, "revision": f"revision {number}", "rejects": None},
        "publish_teacher": {"digest": f"teacher {number}", "repository": f"teachers/t/{number}"},
        "score_teacher": {"parts": ["scores/t/p/shared.parquet", f"scores/t/p/{number}.parquet"], "n": number},
        "distill_student": {"weights": f"students/{number}.safetensors"},
        "evaluate_student": {"golden": {"key": f"golden/{number}.json"}, "answers": answers},
    }
    steps = {name: step(store, name, digest(f"{name}{number}".encode())[:32], out) for name, out in made.items()}
    record = {
        "steps": [{"name": name, "key": m.key} for name, m in steps.items()],
        "lineage": {},
        "config": {"teacher": {"name": "demo", "labels": f"store:teachers/maps/{number}.csv"}},
        "dataset": {"revision": ""},
        "teacher": {"digest": ""},
    }
    store.put(f"runs/2026010{number}-000000-0000/record.json", pretty_json(record))
    return steps


def age(store: DirectoryStore, seconds: float = OLD_S) -> None:
    """Everything was written that long ago, and marks are of that day."""
    then = time.time() - seconds
    for path in store.root.rglob("*"):
        if path.is_file():
            os.utime(path, (then, then))
            if path.parent.name == "used":
                path.rename(path.with_name(time.strftime("%Y%m%d", time.gmtime(then))))


def whole(store: ObjectStore, number: int) -> bool:
    """Everything that a run is made of is there."""
    return objects_of(store, number) <= set(store.list(""))


def objects_of(store: ObjectStore, number: int) -> set[str]:
    """The run's own objects and the shared ones; but for the evaluation, whose name is a digest."""
    objects = {f"datasets/demo/images/{name}.png" for name in ("shared", number)}
    objects |= {f"scores/t/p/{name}.parquet" for name in ("shared", number)}
    objects |= {f"datasets/demo/revisions/{number}.parquet", f"students/{number}.safetensors", f"golden/{number}.json"}
    objects |= {f"teachers/t/{number}/t/1/model.onnx"}
    return objects | {f"steps/{name}/{digest(f'{name}{number}'.encode())[:32]}/manifest.json" for name in STEPS}


STEPS = ("ingest_images", "publish_teacher", "score_teacher", "distill_student", "evaluate_student")


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """Three runs of three days ago."""
    made = DirectoryStore(tmp_path / "store")
    for number in (1, 2, 3):
        make_run(made, number)
    age(made)
    return made


def collected(store: ObjectStore, *, keep: int | None, min_age_s: float = collect.DAY_S) -> set[str]:
    """Keys that went."""
    before = set(store.list(""))
    remove(store, plan(store, keep_runs=keep, min_age_s=min_age_s))
    return before - set(store.list(""))


def test_what_all_runs_name_stays(store: DirectoryStore) -> None:
    assert collected(store, keep=None) == set()


def test_of_the_runs_that_are_not_kept_only_their_own_objects_go(store: DirectoryStore) -> None:
    everything = {number: objects_of(store, number) for number in (1, 2, 3)}
    gone = collected(store, keep=1)
    assert whole(store, 3)
    assert {f"teachers/maps/{number}.csv" for number in (1, 2)} <= gone
    assert store.exists("teachers/maps/3.csv"), "only the run's settings name it"
    assert {key for key in gone if "/manifest" in key} == {
        key for number in (1, 2) for key in everything[number] if "/manifest" in key
    }
    assert everything[1] - everything[3] <= gone
    assert not everything[3] & gone
    assert list(store.list("runs/")), "the history stays"
    assert not [key for key in gone if key.startswith(("runs/", "releases/"))]
    assert collected(store, keep=1) == set(), "a second time there is nothing to do"


def test_the_other_modality_of_a_kept_image_stays(store: DirectoryStore) -> None:
    thermal, table = "datasets/demo/images/thermal.png", "datasets/demo/revisions/paired.parquet"
    store.put(thermal, b"thermal")
    row = ImageRow("shared", "datasets/demo/images/shared.png", None, None, "test", 1, 1, "x", paired_key=thermal)
    store.put(table, to_parquet([row]))
    made = step(store, "ingest_images", "a" * 32, {"table": table, "revision": "paired", "rejects": None})
    record = {"steps": [{"name": "ingest_images", "key": made.key}], "lineage": {}, "dataset": {"revision": ""}}
    record |= {"teacher": {"digest": ""}, "config": {}}
    store.put("runs/20260109-000000-0000/record.json", pretty_json(record))
    age(store)
    assert thermal not in collected(store, keep=None)


def test_nothing_is_removed_by_looking(store: DirectoryStore) -> None:
    before = set(store.list(""))
    made = plan(store, keep_runs=0, min_age_s=0)
    assert made.removals
    assert set(store.list("")) == before


ROOTS: list[tuple[str, Callable[..., set[str]]]] = [
    ("_names_of_runs", lambda *_: set()),
    ("_named_inside", lambda *_: set()),
    ("_named", lambda *_: set()),
]


@pytest.mark.parametrize(("root", "without"), ROOTS, ids=[name for name, _ in ROOTS])
def test_a_collection_that_ignores_a_root_is_noticed(
    store: DirectoryStore, root: str, without: Callable[..., set[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(collect, root, without)
    collected(store, keep=1)
    assert not whole(store, 3)


def release(store: ObjectStore, keys: Path, lineage: dict[str, str]) -> None:
    init_repository(store, keys)
    folder = keys.with_name("bundle")
    folder.mkdir()
    write_bundle(
        folder,
        name="demo",
        version=1,
        created="2026-01-01T00:00:00Z",
        model_xml=b"<net/>",
        model_bin=b"weights",
        labels=["a", "b"],
        size=28,
        golden=[(encode_png(np.zeros((28, 28, 3), np.uint8)), [0.0, 1.0])],
        metrics={},
        gates=[],
        lineage=lineage,
    )
    publish(store, keys, folder)


def lineage_of(steps: dict[str, Manifest]) -> dict[str, str]:
    return {
        "dataset": steps["ingest_images"].outputs["revision"],
        "teacher": steps["publish_teacher"].outputs["digest"],
        "scores": steps["score_teacher"].digest,
        "student": steps["distill_student"].outputs["weights"],
    }


def test_what_a_published_release_was_made_from_stays_until_it_is_withdrawn(
    store: DirectoryStore, tmp_path: Path
) -> None:
    steps = made_by(store, 1)
    release(store, tmp_path / "keys", lineage_of(steps))
    age(store)
    gone = collected(store, keep=1)
    needed = {k for k in objects_of(store, 1) if k.startswith(("datasets/", "teachers/", "scores/", "students/"))}
    assert {k.split("/")[0] for k in needed} == {"datasets", "teachers", "scores", "students"}
    assert not needed & gone
    assert not whole(store, 2)
    withdraw(store, tmp_path / "keys", name="demo", version=1, leave_none=True)
    assert "students/1.safetensors" in collected(store, keep=1)
    assert list(store.list("releases/targets/demo/1/")), "the repository itself is never touched"


def test_without_the_releases_as_roots_the_test_above_would_fail(
    store: DirectoryStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = made_by(store, 1)
    release(store, tmp_path / "keys", lineage_of(steps))
    age(store)
    monkeypatch.setattr(collect, "_names_of_releases", lambda *_: set())
    assert "students/1.safetensors" in collected(store, keep=1)


def made_by(store: ObjectStore, number: int) -> dict[str, Manifest]:
    """Step -> the run's manifest."""
    found = {name: Step(store, name, digest(f"{name}{number}".encode())[:32]).peek() for name in STEPS}
    return {name: manifest for name, manifest in found.items() if manifest}


def test_what_is_young_stays_and_all_that_it_names(store: DirectoryStore) -> None:
    make_run(store, 4)
    store.delete("runs/20260104-000000-0000/record.json")  # its run has not ended
    os.utime(store.path("datasets/demo/images/shared.png"), (0, 0))
    assert not objects_of(store, 4) & collected(store, keep=0)
    assert objects_of(store, 4) & collected(store, keep=0, min_age_s=-1)


def test_a_step_that_was_used_today_stays(store: DirectoryStore) -> None:
    """A run that goes on found it and relies on it, although no record names it yet."""
    for name in STEPS:
        assert Step(store, name, digest(f"{name}1".encode())[:32]).find() is not None
    collected(store, keep=0)
    assert whole(store, 1)
    assert not whole(store, 2)


def test_without_any_age_a_mark_of_today_keeps_nothing(store: DirectoryStore) -> None:
    Step(store, STEPS[0], digest(f"{STEPS[0]}1".encode())[:32]).find()
    collected(store, keep=0, min_age_s=0)
    assert not list(store.list("steps/"))


def test_without_the_mark_it_would_go(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Step, "mark", lambda self: None)
    Step(store, STEPS[0], digest(f"{STEPS[0]}1".encode())[:32]).find()
    collected(store, keep=0)
    assert not whole(store, 1)


def test_a_mark_counts_until_its_day_is_over(store: DirectoryStore) -> None:
    age(store, collect.DAY_S)  # yesterday: used at some time of that day, less than a day before its end
    assert collected(store, keep=0, min_age_s=2 * collect.DAY_S) == set()


def test_while_a_step_is_worked_on_nothing_goes(store: DirectoryStore) -> None:
    assert Step(store, "distill_student", "f" * 32).find() is None
    made = plan(store, keep_runs=0, min_age_s=collect.DAY_S)
    assert made.busy is not None
    assert "distill_student" in made.busy
    with pytest.raises(CollectError, match="--idle"):
        remove(store, made)
    assert whole(store, 1)
    assert plan(store, keep_runs=0, min_age_s=collect.DAY_S, idle=True).removals
    Step(store, "distill_student", "f" * 32).finish({})
    assert collected(store, keep=0)


def test_a_step_that_begins_meanwhile_stops_the_removal(store: DirectoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "BATCH", 5)
    made = plan(store, keep_runs=0, min_age_s=collect.DAY_S)
    delete = store.delete

    def begins(key: str) -> None:
        delete(key)
        if key == made.removals[4].entry.key:
            Step(store, "quantize_student", "e" * 32).find()

    monkeypatch.setattr(store, "delete", begins)
    with pytest.raises(CollectError, match=r"quantize_student/e+ began while 5 of"):
        remove(store, made)


def named_and_gone(store: ObjectStore) -> list[str]:
    """Objects that a manifest in the store names and that are not there."""
    entries = {entry.key: entry for entry in store.entries("")}
    texts: set[str] = set()
    for key in entries:
        if key.endswith("/manifest.json") and key.startswith("steps/"):
            texts |= set(collect._texts(json.loads(store.get(key))["outputs"]))
    objects = {text for text in texts if text.startswith(("datasets/", "scores/", "students/", "golden/", "evalu"))}
    pictures = collect._named_inside(store, {text for text in texts if text in entries}, _Everything())
    return sorted((objects | pictures) - set(entries))


class _Everything(dict[str, Any]):
    """Claims to hold whatever is asked for."""

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter({f"datasets/demo/images/{name}.png" for name in ("shared", "1", "2", "3")})


@pytest.mark.parametrize("backwards", [False, True])
def test_killed_after_any_object_no_manifest_names_what_is_gone(
    store: DirectoryStore, backwards: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut after each single removal; in the reverse order the same look finds broken manifests."""
    made = plan(store, keep_runs=1, min_age_s=collect.DAY_S)
    order = reversed(made.removals) if backwards else made.removals
    broken = 0
    for one in order:
        store.delete(one.entry.key)
        broken += bool(named_and_gone(store))
    assert (broken > 0) == backwards
    assert whole(store, 3)


def test_old_marks_go_and_their_steps_stay(store: DirectoryStore) -> None:
    mark = f"steps/distill_student/{digest(b'distill_student2')[:32]}/used/20200101"
    store.put(mark, b"")
    assert collected(store, keep=None) == {mark}


def test_checkpoints_and_stray_objects_go_and_unknown_ones_stay(store: DirectoryStore) -> None:
    stray = {"checkpoints/distill_student/x/000010.pt", "scores/t/p/stray.parquet", "datasets/demo/rejects/x.jsonl"}
    foreign = {"feedback/node/1.png", "HEAD", "datasets/demo/README"}
    for key in stray | foreign:
        store.put(key, b"x")
    age(store)
    assert collected(store, keep=None) == stray


def test_the_command_says_before_it_does(store: DirectoryStore, tmp_path: Path) -> None:
    home = tmp_path / "home"
    (home / "demo" / "1").mkdir(parents=True)
    store.put("models/remembered.onnx", b"x")
    taught = step(store, "train_teacher", "a" * 32, {"onnx": "models/remembered.onnx"})
    (home / "demo" / "1" / "teacher-a.json").write_text(json.dumps(asdict(taught)))
    for name, old in (("killed", True), ("alive", False)):
        log = home / "work" / name / "pipeline.log"
        log.parent.mkdir(parents=True)
        log.write_text("said")
        if old:
            os.utime(log, (0, 0))
            os.utime(log.parent, (0, 0))
    age(store)

    def call(*arguments: str) -> str:
        done = CliRunner().invoke(cli, ["gc", "--home", str(home), "--store", store.uri, *arguments])
        assert done.exit_code == 0, done.output
        return done.output

    before = set(store.list(""))
    said = call("--keep-runs", "1")
    assert "Nothing was removed; the same command with --yes removes this." in said
    assert "score parts that no kept step names" in said
    assert "work folders" in said
    assert set(store.list("")) == before
    told = json.loads(call("--keep-runs", "1", "--json"))
    assert json.loads(call("--keep-runs", "1", "--json", "--yes"))["objects"] == told["objects"]
    assert before - set(store.list("")) == set(told["objects"])
    assert store.exists("models/remembered.onnx"), "the demo's teacher is remembered in the home"
    assert Step(store, "train_teacher", "a" * 32).peek() is not None
    assert [path.name for path in (home / "work").iterdir()] == ["alive"]
    assert "Nothing to remove" in call("--keep-runs", "1", "--yes")
    wrong = CliRunner().invoke(cli, ["gc", "--store", store.uri, "--min-age", "soon"])
    assert "expected a number and s, m, h or d" in str(wrong.exception)
