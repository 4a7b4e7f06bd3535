"""The pipeline as a user runs it, on real digits, with a real Triton and a real node."""

import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

from edgedistill.answers import read_answers
from edgedistill.bundle import Manifest
from edgedistill.images import encode_png
from edgedistill.storage import open_store
from tests.pipeline.conftest import Home, cached
from tests.pipeline.killing import processes

MODELS = {"teacher", "vanilla", "student_fp32", "student_int8"}
STEPS = ["ingest_images", "publish_teacher", "plan_scoring", "deploy_teacher", "score_teacher", "distill_student"]
STEPS += ["distill_vanilla", "quantize_student", "evaluate_student", "publish_release"]


def test_the_record_says_what_was_done(finished: Home) -> None:
    record = finished.record()
    fields = "run_id started finished target config machine dataset teacher metrics gates kd_gap_closed scoring steps"
    assert set(f"{fields} release lineage status headline notes labels code libraries".split()) <= set(record)
    assert set(record["machine"]) == {"cpu", "flags", "cores"}
    counts = {name: record["dataset"][name] for name in ("train", "validation", "test", "labeled", "rejected")}
    assert counts == {"train": 150, "validation": 50, "test": 100, "labeled": 20, "rejected": 0}
    assert set(record["metrics"]) == MODELS
    for values in record["metrics"].values():
        assert {"top1", "top5", "nll", "ece", "agreement_with_teacher", "size_bytes", "latency_ms_p50"} <= set(values)
    assert record["teacher"]["server"].startswith("tritonserver")
    assert record["teacher"]["labels_used"] == 200, "all of somebody else's images"
    assert [step["name"] for step in record["steps"]] == STEPS
    assert not any(cached(record).values())
    assert all(set(gate) == {"name", "value", "limit", "passed"} for gate in record["gates"])
    assert record["scoring"]["images_per_s"] > 0


def test_the_student_learned_from_the_teacher(finished: Home) -> None:
    metrics = finished.record()["metrics"]
    assert metrics["teacher"]["top1"] > 0.9
    assert metrics["student_fp32"]["top1"] > metrics["vanilla"]["top1"] + 0.1
    assert metrics["student_int8"]["size_bytes"] < metrics["student_fp32"]["size_bytes"] / 2
    assert metrics["teacher"]["agreement_with_teacher"] == 1


def test_the_release_says_how_often_its_student_gives_each_class(finished: Home) -> None:
    (path,) = (finished.store / "releases" / "targets").rglob("*.manifest.json")
    counts = Manifest.parse(path.read_bytes()).class_counts
    (key,) = (finished.store / "evaluations").iterdir()
    said = read_answers(open_store(finished.store), f"evaluations/{key.name}").said["student_int8"]
    assert counts == tuple(int((said == number).sum()) for number in range(10))
    assert sum(counts) == finished.record()["dataset"]["test"]


def test_an_unchanged_run_has_nothing_to_do_and_starts_no_teacher(copied: Home) -> None:
    before = copied.record()
    done = copied.call("run", "--preset", "tiny")
    assert done.returncode == 0, done.stderr
    after = copied.record()
    assert after["run_id"] != before["run_id"]
    assert all(cached(after).values())
    assert not list((copied.folder / "work" / after["run_id"]).rglob("triton.log"))
    assert after["metrics"] == before["metrics"]
    assert after["release"] == before["release"]
    assert copied.releases()["latest"] == 1
    assert "A local node serves release 1" in done.stdout


def test_one_more_image_scores_one_more_image(copied: Home) -> None:
    images = copied.folder / "demo" / "0.1" / "ours"
    before = _parts(copied)
    (images / "7" / "new.png").write_bytes(encode_png(_picture()))
    (images / "3" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    record = copied.run("--set", "distill.epochs=1")
    assert record["dataset"]["rejected"] == 1, "one that does not decode is listed and stops nothing"
    assert any("broken.png" in path.read_text() for path in (copied.store / "datasets").rglob("rejects/*.jsonl"))
    assert record["dataset"]["train"] + record["dataset"]["validation"] + record["dataset"]["test"] == 301
    assert not cached(record)["distill_student"]
    assert _parts(copied) > before, "no part was overwritten"
    newest = max(
        (copied.store / "steps" / "score_teacher").rglob("measured.json"), key=lambda path: path.stat().st_mtime_ns
    )
    # The new image, and at most one at each of the two borders between the splits that moved.
    assert 0 < json.loads(newest.read_text())["asked"] <= 3 * (record["config"]["score"]["views"] + 1)


def test_killed_while_scoring_it_goes_on_from_the_parts(copied: Home) -> None:
    before = _parts(copied)
    command = copied.command("run", "--preset", "tiny", "--set", "score.views=30", "--set", "score.in_flight=1")
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (kept := _parts(copied) - before):
            assert time.monotonic() < deadline
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)  # the submitter alone: what it started must end by itself
        process.wait()
    stamps = {path: path.stat().st_mtime_ns for path in kept}
    _wait_no_child(copied)
    record = copied.run("--set", "score.views=30", "--set", "score.in_flight=1", "--set", "distill.epochs=1")
    assert record["release"]["version"] == 2
    assert {path: path.stat().st_mtime_ns for path in kept} == stamps, "a finished part is not written again"


def test_killed_while_distilling_it_goes_on_from_the_checkpoint_to_the_same_student(copied: Home) -> None:
    options = ("--set", "distill.epochs=40", "--set", "distill.seed=9")
    undisturbed = Home(copied.folder.with_name("undisturbed"))
    shutil.copytree(copied.folder, undisturbed.folder)
    expected = undisturbed.run(*options)
    had_nothing_to_do = {name for name, is_cached in cached(expected).items() if is_cached}
    assert had_nothing_to_do == {"ingest_images", "publish_teacher", "plan_scoring", "deploy_teacher", "score_teacher"}
    assert expected["release"]["version"] == 2
    command = copied.command("run", "--preset", "tiny", *options)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not list((copied.store / "checkpoints").rglob("*.pt")):
            assert time.monotonic() < deadline
            assert process.poll() is None, "it ended before it could be killed"
            time.sleep(0.01)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    _wait_no_child(copied)
    record = copied.run(*options)
    assert record["lineage"]["distill_student"] == expected["lineage"]["distill_student"], "the very same weights"
    assert not list((copied.store / "checkpoints").rglob("*.pt")), "a finished step keeps no checkpoint"


def test_interrupted_it_says_so_and_leaves_nothing_running(copied: Home) -> None:
    command = copied.command("run", "--preset", "tiny", "--set", "distill.epochs=400")
    before = set((copied.folder / "work").iterdir())
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while '"step": "distill_student' not in _progress(copied, before):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode != 0
    assert said.strip().splitlines()[-1].startswith("edgedistill: interrupted; the same command goes on")
    _wait_no_child(copied)
    newest = json.loads(copied.call("runs", "list", "--json").stdout)[-1]
    assert newest["status"] == "interrupted"
    assert newest["step"] in ("distill_student_student", "distill_student_vanilla"), "two that run side by side"
    assert copied.record()["run_id"] != newest["run"], "latest is the newest that came to its end"
    assert newest["run"] in (copied.store / "runs" / "index.html").read_text()


def test_the_report_needs_nothing_but_itself(finished: Home) -> None:
    record = finished.record()
    text = (finished.store / "runs" / record["run_id"] / "report.html").read_text()
    assert text.count("<svg") == 6, "four curves, soft targets, confusion"
    assert not re.findall(r"<(?:script|link|iframe)\b", text)
    assert all(address.startswith("data:image/png;base64,") for address in re.findall(r"(?:src|href)=\"([^\"]+)", text))
    assert text.count("<img") > 10
    for name in ("teacher", "vanilla twin", "student fp32", "student int8"):
        assert name in text
    assert record["headline"].split(" % ")[0] in text


def _progress(home: Home, before: set[Path]) -> str:
    """What the steps of the runs that are not in `before` have said."""
    new = set((home.folder / "work").iterdir()) - before
    return "".join(path.read_text() for folder in new for path in folder.glob("progress.jsonl"))


def _parts(home: Home) -> set[Path]:
    return set((home.store / "scores").rglob("*.parquet"))


def _picture():  # type: ignore[no-untyped-def]
    import numpy as np

    return np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8)


def _wait_no_child(home: Home) -> None:
    """Everything that the run started ends by itself, soon."""
    deadline = time.monotonic() + 30
    while left := [process for process in processes() if str(home.folder) in process]:
        assert time.monotonic() < deadline, left
        time.sleep(0.1)


def test_runs_are_listed_and_shown(finished: Home) -> None:
    record = finished.record()
    assert record["run_id"] in finished.call("runs", "list").stdout
    shown = finished.call("runs", "show", record["run_id"]).stdout
    assert "student int8" in shown
    assert json.loads(finished.call("runs", "show", "--json").stdout)["run_id"] == record["run_id"]
    alone = finished.call("runs", "compare", "latest")
    assert "two or more" in alone.stderr
    same = json.loads(finished.call("runs", "compare", "latest", record["run_id"], "--json").stdout)
    assert (same["settings"], same["inputs"]) == ({}, {})
    assert same["measures"]["int8_top1"] == [record["metrics"]["student_int8"]["top1"]] * 2
    unknown = finished.call("runs", "show", "20200101-000000-0000")
    assert unknown.returncode != 0
    assert "edgedistill runs list" in unknown.stderr
