"""`edgedistill watch`: the real loop around a real ingest, and once around a whole tiny run."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.pipeline.conftest import Home
from tests.pipeline.fleet import asked, sent
from tests.pipeline.pictures import encoded, folder, picture, write

# What stands for `edgedistill run`: a real ingest of the folder, and a note of when it ran and what it was told.
RUN = """
import json, sys, time
from components.ingest_images.run import run
from edgedistill.progress import Progress
told = dict(zip(sys.argv[2::2], sys.argv[3::2]))
began = time.time()
log = open(sys.argv[1], "a")
print(json.dumps({"began": began}), file=log, flush=True)
try:
    made = run(store=told["--home"] + "/store", data=told["--data"], config={}, progress=Progress())
    time.sleep(SLEEP)
except KeyboardInterrupt:
    print(json.dumps({"interrupted": True}), file=log, flush=True)
    raise
except Exception as error:
    sys.exit(str(error))
counts = made.outputs["counts"]
images = counts["train"] + counts["validation"] + counts["test"]
print(json.dumps({"began": began, "ended": time.time(), "images": images, "told": told}), file=log, flush=True)
"""
COMMAND = """
import sys
from edgedistill import cli, cli_watch
cli_watch.COMMAND = (sys.executable, "-c", sys.argv.pop(1), sys.argv.pop(1))
{extra}
cli.main()
"""


@dataclass
class Watched:
    """A folder of images, a home, and the processes that watch."""

    folder: Path
    home: Path
    started: list["subprocess.Popen[str]"] = field(default_factory=list)

    def watch(self, *options: str, sleep_s: float = 0, extra: str = "") -> "subprocess.Popen[str]":
        log = str(self.home.with_name("runs.jsonl"))
        command = [sys.executable, "-c", COMMAND.format(extra=extra), RUN.replace("SLEEP", str(sleep_s)), log]
        command += ["watch", str(self.folder), "--home", str(self.home), "--quiet", "0.6", *options]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.started.append(child)
        return child

    def once(self, *options: str) -> tuple[int, str]:
        child = self.watch("--once", *options)
        said = child.communicate(timeout=120)[0]
        return child.returncode, said

    def log(self) -> list[dict[str, object]]:
        path = self.home.with_name("runs.jsonl")
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def runs(self) -> list[dict[str, object]]:
        """Those that ended."""
        return [line for line in self.log() if "ended" in line]


@pytest.fixture
def watched(tmp_path: Path) -> Iterator[Watched]:
    place = Watched(folder(tmp_path / "images"), tmp_path / "home")
    yield place
    for child in place.started:
        if child.poll() is None:
            child.kill()
        child.wait()
        assert child.stdout
        child.stdout.close()


def until(condition: Callable[[], object], child: "subprocess.Popen[str] | None" = None) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        assert child is None or child.poll() is None, "it ended early"
        time.sleep(0.05)


def test_new_changed_and_removed_images_start_one_run_each(watched: Watched) -> None:
    child = watched.watch("--teacher", "t.onnx", "--preset", "tiny", "--set", "distill.epochs=1")
    until(lambda: len(watched.runs()) == 1, child)
    assert watched.runs()[0]["images"] == 16
    told = watched.runs()[0]["told"]
    assert isinstance(told, dict)
    assert {k: told[k] for k in ("--teacher", "--preset", "--set")} == {
        "--teacher": "t.onnx",
        "--preset": "tiny",
        "--set": "distill.epochs=1",
    }
    for index in range(4):  # a burst, each less than the quiet time after the one before
        write(watched.folder / "cat" / f"new{index}.png", encoded(picture(700 + index)))
        time.sleep(0.15)
    until(lambda: len(watched.runs()) == 2, child)
    assert watched.runs()[1]["images"] == 20, "one run for the burst"
    write(watched.folder / "cat" / "new0.png", encoded(picture(799)))
    until(lambda: len(watched.runs()) == 3, child)
    (watched.folder / "cat" / "new1.png").unlink()
    until(lambda: len(watched.runs()) == 4, child)
    assert watched.runs()[3]["images"] == 19
    os.utime(watched.folder / "cat" / "new2.png")  # touched, not changed
    write(watched.folder / ".DS_Store", b"nothing")
    time.sleep(3)
    assert len(watched.log()) == 8, "no run without new content"
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=30)[0]
    assert child.returncode == 0
    assert said.strip().splitlines()[-1] == "Stopped; the same command goes on."


def test_other_weights_and_another_map_start_a_run(watched: Watched, tmp_path: Path) -> None:
    weights, table = tmp_path / "mine.pt", tmp_path / "map.csv"
    weights.write_bytes(b"1")
    table.write_text("teacher,class\n")
    options = ("--teacher", f"timm:resnet18@{weights}", "--teacher-labels", str(table))
    for change in (weights, table):
        assert watched.once(*options)[1] == "New content: a run starts.\n"
        assert watched.once(*options)[1] == "Nothing new.\n"
        change.write_bytes(b"2")
    assert watched.once(*options)[1] == "New content: a run starts.\n"
    told = watched.runs()[0]["told"]
    assert isinstance(told, dict)
    assert told["--teacher-labels"] == str(table)


def test_a_restart_does_not_repeat_and_other_options_do(watched: Watched) -> None:
    assert watched.once() == (0, "New content: a run starts.\n")
    assert watched.once() == (0, "Nothing new.\n")
    assert len(watched.runs()) == 1
    watched.once("--preset", "tiny")
    assert len(watched.runs()) == 2
    memory = next(path for path in (watched.home / "watch").glob("*.json"))
    memory.write_text("{ broken")
    watched.once()
    watched.once("--preset", "tiny")
    assert len(watched.runs()) == 3, "a broken memory costs one run that has nothing to do"


def test_a_failed_run_is_said_and_not_remembered(watched: Watched) -> None:
    shutil.rmtree(watched.folder / "dog")
    status, said = watched.once()
    assert status == 1
    assert "found only 'cat'" in said
    folder(watched.folder)
    assert watched.once()[0] == 0
    assert len(watched.runs()) == 1


def test_the_fleet_starts_a_run(watched: Watched) -> None:
    store, options = watched.home / "store", ("--feedback", "--feedback-pictures", "3", "--set", "ingest.name=demo")
    soon = "import edgedistill.cli_feedback as fleet; fleet.REST_S = 0; cli_watch.FLEET_S = 0.2"

    def once(extra: str = soon) -> str:
        return watched.watch("--once", *options, extra=extra).communicate(timeout=120)[0]

    assert once() == "New content: a run starts.\n"
    for index in range(2):
        sent(store, encoded(picture(7000 + index)))
    sent(store, encoded(picture(7009)), release="another")
    asked(store, release="another")
    assert once() == "Nothing new.\n"
    sent(store, encoded(picture(7002)))
    assert once() == "3 new pictures of the fleet: a run starts.\n"
    assert once() == "Nothing new.\n"
    asked(store)
    assert once(extra="") == "Nothing new.\n", "the last run was just now"
    child = watched.watch(*options, extra=soon)
    until(lambda: len(watched.runs()) == 3, child)
    asked(store, node="node-2")
    until(lambda: len(watched.runs()) == 4, child)
    time.sleep(1.5)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=30)[0]
    assert said.count("1 requests of the fleet: a run starts.") == 2
    assert len(watched.runs()) == 4


def test_an_empty_folder_is_waited_for(watched: Watched) -> None:
    shutil.rmtree(watched.folder)
    watched.folder.mkdir()
    assert watched.once() == (0, "No images yet.\n")
    assert watched.log() == []


def test_one_run_at_a_time_even_after_the_watcher_was_killed(watched: Watched) -> None:
    first = watched.watch(sleep_s=3)
    until(lambda: watched.log(), first)
    first.kill()
    first.wait()
    second = watched.watch("--once", sleep_s=0)
    assert "waiting for its end" in second.communicate(timeout=120)[0]
    one, two = watched.runs()
    assert float(str(one["ended"])) <= float(str(two["began"]))


def test_without_the_lock_two_run_at_once(watched: Watched) -> None:
    """Negative control."""
    extra = "cli_watch.fcntl.flock = lambda *_: None"
    children = [watched.watch("--once", sleep_s=3, extra=extra) for _ in range(2)]
    for child in children:
        child.communicate(timeout=120)
    one, two = sorted(watched.runs(), key=lambda run: float(str(run["began"])))
    assert float(str(two["began"])) < float(str(one["ended"]))


def test_a_second_watcher_of_the_same_is_refused(watched: Watched) -> None:
    first = watched.watch()
    until(lambda: watched.runs(), first)
    status, said = watched.once()
    assert status != 0
    assert said.startswith("edgedistill: ")
    assert "is watched already" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_interrupts_the_run_and_waits_for_its_end(watched: Watched, number: signal.Signals) -> None:
    child = watched.watch(sleep_s=60)
    until(lambda: watched.log(), child)
    time.sleep(1)
    child.send_signal(number)
    assert child.wait(30) == 0
    assert watched.log()[-1] == {"interrupted": True}
    assert watched.once()[1] == "New content: a run starts.\n", "it was not remembered"


@pytest.mark.parametrize("where", ["nowhere", "home-inside"])
def test_what_cannot_be_watched(watched: Watched, where: str) -> None:
    if where == "nowhere":
        watched.folder = watched.folder / "nowhere"
    else:
        watched.home = watched.folder / "home"
    status, said = watched.once()
    assert status != 0
    assert said.startswith("edgedistill: ")
    assert where.split("-")[0] in said


def test_a_whole_tiny_run(copied: Home, tmp_path: Path) -> None:
    images = tmp_path / "images"
    shutil.copytree(copied.folder / "demo" / "0.1" / "ours", images)
    teacher = next((copied.store / "models").glob("*.onnx"))
    arguments = ("watch", str(images), "--teacher", str(teacher), "--preset", "tiny", "--set", "distill.epochs=1")
    done = copied.call(*arguments, "--set", "ingest.labeled_fraction=0.1", "--quiet", "0.2", "--once")
    assert done.returncode == 0, done.stderr
    assert "New content: a run starts." in done.stdout
    assert "gap closed" in done.stdout
    record = copied.record()
    assert record["dataset"]["train"] == 150
    with contextlib.suppress(ValueError):
        again = copied.call(*arguments, "--set", "ingest.labeled_fraction=0.1", "--quiet", "0.2", "--once")
        assert again.stdout == "Nothing new.\n"
    assert copied.record()["run_id"] == record["run_id"]
