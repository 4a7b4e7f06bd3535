"""What the tests of kill -9 share: one step as a process of its own, on a store that lacks what the step makes."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edgedistill.dataset import read_dataset
from edgedistill.progress import FILE_VARIABLE
from edgedistill.scores import read_part
from edgedistill.steps import Manifest, Step
from edgedistill.storage import ObjectStore, canonical_json, digest, open_store, pretty_json
from tests.pipeline.conftest import Home

# The entry point of a component, without kfp around it.
DRIVER = """
import json, sys
from importlib import import_module
from types import SimpleNamespace as Artifact
from edgedistill.steps import execute
request = json.load(open(sys.argv[1]))
values = {k: Artifact(path=v["path"]) if isinstance(v, dict) and set(v) == {"path"} else v
          for k, v in request["arguments"].items()}
run = import_module(f"components.{request['component']}.run").run
execute(Artifact(path=request["output"], metadata={}), run, **values)
"""
MANIFESTS = {
    "publish_teacher": ("images",),
    "plan_scoring": ("images", "teacher"),
    "score_teacher": ("images", "teacher", "plan", "endpoint"),
    "distill_student": ("images", "teacher", "scores"),
    "distill_vanilla": ("images", "teacher", "scores"),
    "quantize_student": ("images", "scores", "student"),
    "evaluate_student": ("images", "teacher", "scores", "student", "vanilla", "models"),
    "publish_release": ("images", "teacher", "scores", "student", "models", "evaluation"),
}
MADE_BY = {
    "images": "ingest_images",
    "teacher": "publish_teacher",
    "scores": "score_teacher",
    "student": "distill_student",
    "vanilla": "distill_vanilla",
    "models": "quantize_student",
    "evaluation": "evaluate_student",
}
SECTIONS = {
    "ingest_images": {"config": "ingest"},
    "publish_teacher": {"config": "teaching"},
    "plan_scoring": {"config": "score"},
    "score_teacher": {"config": "score"},
    "distill_student": {"config": "distill", "scoring": "score"},
    "distill_vanilla": {"config": "distill", "scoring": "score"},
    "quantize_student": {"config": "quantize", "distill": "distill", "scoring": "score"},
    "publish_release": {"config": "config"},
}
STEPS = tuple(SECTIONS | MANIFESTS)


@dataclass
class Rig:
    """A copy of the finished store that lacks what one step made, and the means to run that step again."""

    home: Home  # finished, never touched
    folder: Path
    step: str
    endpoint: Mapping[str, Any] = field(default_factory=dict)  # outputs of deploy_teacher, for score_teacher
    environment: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)  # over the step's own

    def __post_init__(self) -> None:
        self.reference = manifest(self.home, self.step)
        shutil.copytree(self.home.store, self.folder / "store", copy_function=os.link)
        self.store = open_store(self.folder / "store")
        self._forget()
        self._request()

    @property
    def component(self) -> str:
        return "distill_student" if self.step == "distill_vanilla" else self.step

    def start(self) -> "subprocess.Popen[str]":
        """The step, as a process."""
        environment = os.environ | {FILE_VARIABLE: str(self.folder / "progress.jsonl")} | self.environment
        command = [sys.executable, "-W", "ignore", "-c", DRIVER, str(self.folder / "request.json")]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def finish(self) -> Manifest:
        """Run the step to its end."""
        process = self.start()
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
        return Manifest(**json.loads((self.folder / "output.json").read_text()))

    def kill_at(self, moment_s: float) -> bool:
        """Start the step and kill it after so long; whether it was still at work."""
        process = self.start()
        try:
            process.wait(moment_s)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
        process.communicate()
        return process.returncode == -signal.SIGKILL

    def parts(self) -> dict[Path, int]:
        """Score parts and when they were written."""
        return {path: path.stat().st_mtime_ns for path in (self.folder / "store" / "scores").rglob("*.parquet")}

    def plan(self) -> Manifest:
        """What plan_scoring says now."""
        from components.plan_scoring.run import run
        from edgedistill.progress import Progress

        return run(
            store=str(self.folder / "store"),
            images=manifest(self.home, "ingest_images"),
            teacher=manifest(self.home, "publish_teacher"),
            config=_asked(self.home)["score"] | dict(self.settings),
            progress=Progress(),
        )

    def refresh(self) -> None:
        """The plan follows what is in the store, as in a run that goes on."""
        self._request()

    def _request(self) -> None:
        asked = _asked(self.home)
        arguments: dict[str, Any] = {"store": str(self.folder / "store")}
        for name in MANIFESTS.get(self.step, ()):
            arguments[name] = {"path": str(self._write(name))}
        for name, section in SECTIONS.get(self.step, {}).items():
            arguments[name] = asked[section] | dict(self.settings)
        if self.component == "distill_student":
            arguments["mode"] = self.step.removeprefix("distill_")
        if self.step == "ingest_images":
            arguments["data"] = str(self.home.folder / "demo" / "0.1" / "ours")
        if self.step == "publish_teacher":
            arguments["teacher"] = asked["teacher"]
        if self.step == "publish_release":
            arguments["keys"] = str(self.folder / "keys")
        request = {"component": self.component, "arguments": arguments, "output": str(self.folder / "output.json")}
        (self.folder / "request.json").write_text(json.dumps(request))

    def _write(self, name: str) -> Path:
        if name == "plan":
            made = self.plan()
        elif name == "endpoint":
            made = Manifest("deploy_teacher", "", self.endpoint)
        else:
            made = manifest(self.home, MADE_BY[name])
        path = self.folder / f"{name}.json"
        path.write_bytes(pretty_json(asdict(made)))
        return path

    def _forget(self) -> None:
        """Remove the step's manifests and the objects that it made."""
        folder = self.folder / "store"
        for key in (folder / "steps" / self.component).iterdir() if self.step != "plan_scoring" else ():
            if self.component != "distill_student" or self.reference.key == key.name:
                shutil.rmtree(key)
        gone = {"ingest_images": "datasets", "score_teacher": "scores", "publish_release": "releases"}
        if self.step in gone:
            shutil.rmtree(folder / gone[self.step])
        elif self.step != "plan_scoring":
            given = [manifest(self.home, MADE_BY[name]) for name in MANIFESTS[self.step] if name in MADE_BY]
            kept = {key for one in given for key in named(self.store, one.outputs)}
            for key in set(named(self.store, self.reference.outputs)) - kept:
                for one in list(self.store.list(key)) if not key.startswith("datasets/") else ():
                    self.store.delete(one)


def _asked(home: Home) -> dict[str, Any]:
    """The arguments of the finished run's pipeline."""
    request = next((home.folder / "work").glob("*/distillation.json"))
    found: dict[str, Any] = json.loads(request.read_text())["arguments"]
    return found


def manifest(home: Home, step: str) -> Manifest:
    """What a step of the finished run made."""
    store = open_store(home.store)
    if step == "plan_scoring":
        return Manifest(step, "", {})
    component, mode = ("distill_student", step.removeprefix("distill_")) if "distill" in step else (step, None)
    for key in store.list(f"steps/{component}/"):
        found = Step(store, component, key.split("/")[2]).find()
        theirs = found is not None and found.outputs.get("name") == "demo-theirs"
        if found and not theirs and found.outputs.get("mode") == mode:
            return replace(found, step=step)
    raise AssertionError(f"no {step}")


def named(store: ObjectStore, value: Any) -> Iterator[str]:
    """Every key of an object that outputs name."""
    if isinstance(value, Mapping):
        for one in value.values():
            yield from named(store, one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from named(store, one)
    elif isinstance(value, str) and "/" in value and not value.startswith("/") and " " not in value:
        yield value


def check(rig: Rig, made: Manifest) -> None:
    """P3: the same outputs as undisturbed, every object that they name is there and whole, every view exactly once."""
    expected, found = dict(rig.reference.outputs), dict(made.outputs)
    if rig.step == "publish_release":  # a release holds the time at which it was made
        assert found.pop("version") == expected.pop("version") == 1, "one release, however often it was killed"
        found.pop("digest"), expected.pop("digest")
    if rig.step != "plan_scoring":
        assert found == expected
    reference = open_store(rig.home.store)
    for key in named(rig.store, made.outputs):
        if reference.exists(key):
            assert rig.store.exists(key), f"{key} is named and absent"
            assert digest(rig.store.get(key)) == digest(reference.get(key)), f"{key} holds other bytes"
    if rig.step == "score_teacher":
        dataset = read_dataset(rig.store, manifest(rig.home, "ingest_images"))
        views = Counter(name for key in made.outputs["parts"] for name, _ in read_part(rig.store, key))
        expected_views = {
            (row.image_id, view)
            for row in dataset.rows
            for view in range(1 + (made.outputs["views"] if row.split == "train" else 0))
        }
        assert set(views) == expected_views
        assert set(views.values()) == {1}
    left = list((rig.folder / "store" / "checkpoints").rglob("*.pt"))
    assert not left, "a finished step keeps no checkpoint"


def moments(seed: int, longest_s: float) -> Iterator[float]:
    """Random moments within a step; each miss (the step had ended) shortens the next."""
    draw = random.Random(seed)
    while True:
        yield draw.uniform(0, longest_s)
        longest_s *= 0.7


def settle() -> float:
    """Seconds that this machine needs to start a step's process, without its work."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import edgedistill.steps, numpy, pyarrow, openvino"], check=True)
    return time.perf_counter() - began


def lineage(record: Mapping[str, Any]) -> str:
    """One digest of everything but the release, which holds its time."""
    return digest(canonical_json({k: v for k, v in record["lineage"].items() if k != "publish_release"}))


def processes() -> list[str]:
    """The command lines of all processes."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found
