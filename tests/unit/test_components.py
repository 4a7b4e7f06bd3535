"""A step runs alone, without kfp; what its README tells to type is what its run() takes."""

import inspect
import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from edgedistill.images import encode_png

ROOT = Path(__file__).resolve().parents[2]
STEPS = sorted(path.parent.name for path in (ROOT / "components").glob("*/run.py"))


@pytest.mark.parametrize("step", STEPS)
def test_the_readme_names_every_argument(step: str) -> None:
    text = (ROOT / "components" / step / "README.md").read_text()
    found = re.search(r"Alone: `python -m components (\w+) (.*)`", text)
    assert found
    assert found[1] == step
    told = set(re.findall(r"--(\w+)", found[2])) - {"output"}
    parameters = inspect.signature(import_module(f"components.{step}.run").run).parameters
    takes = {"manifest" if p.kind is p.VAR_KEYWORD else name for name, p in parameters.items()} - {"progress"}
    assert told == takes


def step(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-m", "components", *arguments], capture_output=True, text=True, check=False)


def test_a_step_runs_alone(tmp_path: Path) -> None:
    for label in ("cat", "dog"):
        for number in range(10):
            picture = np.random.default_rng([number, ord(label[0])]).integers(0, 256, (8, 8, 3), dtype=np.uint8)
            path = tmp_path / "images" / label / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode_png(picture))
    arguments = ["--store", str(tmp_path / "store"), "--data", str(tmp_path / "images"), "--config", "{}"]
    done = step("ingest_images", *arguments, "--output", str(tmp_path / "made.json"))
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "made.json").read_text())
    assert made["outputs"]["classes"] == ["cat", "dog"]


def test_what_goes_wrong_is_one_sentence(tmp_path: Path) -> None:
    done = step(
        *("ingest_images", "--store", str(tmp_path), "--data", "/nowhere", "--config", "{}"),
        *("--output", str(tmp_path / "made.json")),
    )
    assert done.returncode != 0
    assert done.stderr.startswith("components: '/nowhere' is no folder, file")
    assert not (tmp_path / "made.json").exists()
    assert "ingest_images" in step("no_such_step").stderr
