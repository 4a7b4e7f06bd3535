"""P3: kill -9 at a random moment of every step, of Triton and of the submitter; then the same command again.

One kill a step here; `EDGEDISTILL_KILLS=10 python -m pytest -s tests/pipeline/test_kills.py` is the long version.
`EDGEDISTILL_SEED` repeats a run's moments (they are printed).
"""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgedistill.scores import read_part
from serving.local_rig import Served, serve
from tests.pipeline.conftest import Home
from tests.pipeline.killing import STEPS, Rig, check, manifest, moments, processes, settle

KILLS = int(os.environ.get("EDGEDISTILL_KILLS", "1"))
SEED = int(os.environ.get("EDGEDISTILL_SEED") or random.SystemRandom().randrange(1 << 16))


@pytest.fixture(scope="module")
def started_s() -> float:
    return settle()


@pytest.fixture
def teacher(finished: Home, tmp_path: Path) -> Iterator[Served]:
    """The finished run's teacher, served."""
    with served(finished, tmp_path) as server:
        yield server


def served(home: Home, folder: Path):  # type: ignore[no-untyped-def]
    about = manifest(home, "publish_teacher").outputs
    model = (home.store / about["model"]).read_bytes()
    return serve(model, name=about["name"], size=about["size"], classes=about["classes"], folder=folder)


def endpoint(server: Served) -> dict[str, str]:
    return {"url": server.url, "server": server.server}


@pytest.mark.parametrize("step", [step for step in STEPS if step != "score_teacher"])
def test_a_step_that_was_killed_ends_as_if_it_were_not(
    finished: Home, tmp_path: Path, step: str, started_s: float
) -> None:
    # 24 epochs would have two checkpoints, but no undisturbed twin in the finished run; test_run has that case.
    seconds = {one["name"]: one["seconds"] for one in finished.record()["steps"]}[step]
    hits = misses = 0
    for kill in range(KILLS):
        for moment in moments(SEED + kill, started_s + seconds):
            rig = Rig(finished, tmp_path / f"{kill}-{misses}", step)
            if rig.kill_at(moment):
                hits += 1
                check(rig, rig.finish())
                print(f"{step}: killed after {moment:.2f} s")
                break
            misses += 1
            check(rig, rig.finish())
            assert misses < 20 * KILLS, "never killed at work"
    print(f"P3 {step}: seed {SEED}, {hits} kills, {misses} moments after its end, {hits} ended as undisturbed")
    assert hits == KILLS


def test_scoring_that_was_killed_redoes_one_part_at_most(
    finished: Home, tmp_path: Path, teacher: Served, started_s: float
) -> None:
    hits = misses = 0
    for kill in range(KILLS):
        for moment in moments(SEED + kill, started_s + 2):
            rig = Rig(finished, tmp_path / f"{kill}-{misses}", "score_teacher", endpoint(teacher))
            if rig.kill_at(moment):
                hits += 1
                _goes_on(rig)
                break
            misses += 1
            assert misses < 20 * KILLS, "never killed at work"
    print(f"P3 score_teacher: seed {SEED}, {hits} kills, {misses} moments after its end")
    assert hits == KILLS


def test_when_the_teachers_server_is_killed_the_run_says_so_and_goes_on(finished: Home, tmp_path: Path) -> None:
    draw, hits = random.Random(SEED), 0
    for kill in range(KILLS):
        with served(finished, tmp_path) as first:
            rig = Rig(finished, tmp_path / str(kill), "score_teacher", endpoint(first), settings={"patience_s": 1.0})
            process = rig.start()
            while not (rig.folder / "progress.jsonl").exists():
                assert process.poll() is None
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(draw.uniform(0, 0.5))
            os.kill(_child(first.process.pid), signal.SIGKILL)
            _, said = process.communicate(timeout=60)
            if process.returncode:
                hits += 1
                assert "run the same command again" in said, said
            assert _all_gone(tmp_path / "edgedistill-triton-"), "the stub must not outlive the server that it waits for"
        with served(finished, tmp_path) as second:
            rig.endpoint = endpoint(second)
            _goes_on(rig)
    print(f"P3 Triton: seed {SEED}, {hits} of {KILLS} kills while it was asked")


def _child(pid: int) -> int:
    """The server itself, below its keeper."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            if int(stat.read_text().rpartition(")")[2].split()[1]) == pid:
                return int(stat.parent.name)
    raise AssertionError(f"{pid} has no child")


def _all_gone(folder: Path) -> bool:
    """No process has the folder in its command line any more, within half a minute."""
    deadline = time.monotonic() + 30
    while any(str(folder) in process for process in processes()):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.1)
    return True


def _goes_on(rig: Rig) -> None:
    """The step again: what is written stays, no view of it is asked for again, and the end is the undisturbed one."""
    kept = rig.parts()
    missing = rig.plan().outputs["missing"]
    rig.refresh()
    made = rig.finish()
    check(rig, made)
    assert {path: stamp for path, stamp in rig.parts().items() if path in kept} == kept, "a part is written once"
    assert len(missing) + len(kept) == len(made.outputs["parts"])
    known = sum(1 for path in kept for _ in read_part(rig.store, path.relative_to(rig.store.root).as_posix()))
    assert made.measured.get("asked", 0) == rig.reference.measured["asked"] - known


# The negative controls: without the guard, the same check must fail. Only a test can put a module on PYTHONPATH.
DIES = """
import os, signal
from pathlib import Path
from edgedistill.storage import DirectoryStore
once = Path(os.environ["KILL_MARK"])
def die():
    once.touch()
    os.kill(os.getpid(), signal.SIGKILL)
whole = DirectoryStore.put
held = []
"""
TORN = """
def put(self, key, data):  # straight to its name, not to a temporary one
    if key.startswith("scores/") and not once.exists():
        path = self.root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[: len(data) // 2])
        die()
    whole(self, key, data)
DirectoryStore.put = put
"""
GUARDED = """
def link(self, temporary, key):  # killed where the torn one is, with the guard in place
    if key.startswith("scores/") and not once.exists():
        temporary.write_bytes(temporary.read_bytes()[:100])
        die()
    linked(self, temporary, key)
linked = DirectoryStore._link
DirectoryStore._link = link
"""
MANIFEST_FIRST = """
def put(self, key, data):  # what a manifest names comes after it
    if key.startswith("students/") and not once.exists():
        held.append((key, data))
        return
    whole(self, key, data)
    if key.startswith("steps/distill_student/") and key.endswith("manifest.json") and not once.exists():
        die()
DirectoryStore.put = put
"""
PUBLISHED = """
def swap(self, key, data, *, expected):
    swapped(self, key, data, expected=expected)
    if key.endswith("timestamp.json") and expected is not None and not once.exists():
        die()  # the release is out, and its step has no manifest
swapped = DirectoryStore.swap
DirectoryStore.swap = swap
"""


def sabotage(folder: Path, code: str) -> dict[str, str]:
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(DIES + code)
    path = os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))
    return {"PYTHONPATH": path, "KILL_MARK": str(folder / "killed")}


@pytest.mark.parametrize(("code", "guarded"), [(TORN, False), (GUARDED, True)])
def test_a_part_that_is_not_written_atomically_is_found_out(
    finished: Home, tmp_path: Path, teacher: Served, code: str, guarded: bool
) -> None:
    environment = sabotage(tmp_path / "sabotage", code)
    rig = Rig(finished, tmp_path / "rig", "score_teacher", endpoint(teacher), environment)
    assert rig.kill_at(120), "it killed itself"
    if guarded:
        _goes_on(rig)
    else:
        with pytest.raises(Exception):  # noqa: B017, PT011 - whatever reads the torn part first
            _goes_on(rig)


def test_a_manifest_that_is_written_first_is_found_out(finished: Home, tmp_path: Path) -> None:
    rig = Rig(finished, tmp_path / "rig", "distill_vanilla", environment=sabotage(tmp_path / "s", MANIFEST_FIRST))
    assert rig.kill_at(240), "it killed itself"
    with pytest.raises(AssertionError, match="named and absent"):
        check(rig, rig.finish())
    shutil.rmtree(rig.folder)


def test_killed_after_it_published_it_makes_no_second_release(finished: Home, tmp_path: Path) -> None:
    rig = Rig(finished, tmp_path / "rig", "publish_release", environment=sabotage(tmp_path / "s", PUBLISHED))
    assert rig.kill_at(120), "it killed itself"
    check(rig, rig.finish())
