"""Which steps redo their work when one line of a module changes: the whole table, checked on a patched copy.

A step's key holds its code's fingerprint. Too small a fingerprint serves stale results; too large a one trains a
student again for a changed sentence.
"""

import ast
import re
import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import pytest

from edgedistill import steps

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("edgedistill", "components", "serving")
# Every fingerprint that a key is made of: name -> module.
KEYS = {
    "ingest": "components.ingest_images.run",
    "publish_teacher": "components.publish_teacher.run",
    "train_teacher": "components.train_teacher.run",
    "views": "edgedistill.views",
    "distill": "components.distill_student.run",
    "quantize": "components.quantize_student.run",
    "evaluate": "components.evaluate_student.run",
    "release": "components.publish_release.run",
}
# Module, or a pattern of names -> the keys above that change with it. The first line that fits counts.
TABLE = """
components.__main__:
components.image:
components.*.component:
components.deploy_teacher.run:
components.distill_student.run: distill
components.evaluate_student.run: evaluate
components.ingest_images.*: ingest
components.plan_scoring.run:
components.publish_release.run: release
components.publish_teacher.*: publish_teacher
components.quantize_student.*: quantize
components.remove_teacher.run:
components.report_run.*:
components.score_teacher.run:
components.train_teacher.run: train_teacher
edgedistill.ahead:
edgedistill.answers: evaluate
edgedistill.budget: ingest
edgedistill.bundle: release
edgedistill.charts:
edgedistill.collect:
edgedistill.cli*:
edgedistill.config:
edgedistill.conversion: distill evaluate quantize
edgedistill.dataset: distill evaluate ingest publish_teacher quantize train_teacher
edgedistill.demo:
edgedistill.errors:
edgedistill.history*:
edgedistill.images: distill evaluate ingest publish_teacher quantize release train_teacher views
edgedistill.inference: evaluate publish_teacher quantize
edgedistill.local_copy:
edgedistill.losses: distill quantize
edgedistill.metrics: distill evaluate quantize
edgedistill.models: distill evaluate quantize train_teacher
edgedistill.node_client:
edgedistill.place:
edgedistill.progress:
edgedistill.report*:
edgedistill.runs:
edgedistill.s3_requests:
edgedistill.scores: distill evaluate quantize
edgedistill.scratch:
edgedistill.signing_rotate:
edgedistill.signing*: release
edgedistill.steps:
edgedistill.storage*:
edgedistill.terminal:
edgedistill.training: distill quantize train_teacher
edgedistill.views: distill quantize train_teacher views
serving.host:
serving.inference_service:
serving.local_rig:
serving.triton_keeper:
serving.model_repository: publish_teacher
serving.onnx_teacher: publish_teacher
serving.onnx_export: publish_teacher train_teacher
serving.scorer:
serving.teacher_*: publish_teacher
serving.triton_model:
"""


def table() -> dict[str, set[str]]:
    lines = (line.partition(":") for line in TABLE.strip().splitlines())
    return {module: set(names.split()) for module, _, names in lines}


def modules() -> list[str]:
    found = (path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
    return sorted(".".join(path.with_suffix("").parts) for path in found if path.name != "__init__.py")


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the sources that fingerprints are taken from."""
    for package in PACKAGES:
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(steps, "_ROOT", tmp_path)
    # Each text once: a thousand fingerprints in seconds.
    for name in ("_without_docstrings", "_imports"):
        monkeypatch.setattr(steps, name, cache(getattr(steps, name)))
    monkeypatch.setattr(ast, "parse", cache(ast.parse))
    monkeypatch.setattr(ast, "dump", cache(ast.dump))
    yield tmp_path
    steps.fingerprint.cache_clear()


def fingerprints() -> dict[str, str]:
    steps.fingerprint.cache_clear()
    return {name: steps.fingerprint(module) for name, module in KEYS.items()}


def test_one_line_changes_exactly_the_keys_in_the_table(copy: Path) -> None:
    before, expected, wrong = fingerprints(), table(), []
    for module in modules():
        path = copy.joinpath(*module.split(".")).with_suffix(".py")
        text = path.read_text()
        path.write_text(text + "\nEDITED = 1\n")
        changed = {name for name, value in fingerprints().items() if value != before[name]}
        path.write_text(text)
        listed = next((keys for name, keys in expected.items() if fnmatch(module, name)), None)
        if listed is None or changed != listed:
            wrong.append(f"{module}: {' '.join(sorted(changed))}".strip())
    told = "\n".join(wrong)
    assert not wrong, (
        f"put these lines into TABLE, if what they redo is meant (a step that is listed works again):\n{told}"
    )
    gone = [name for name in expected if not any(fnmatch(module, name) for module in modules())]
    assert not gone, f"take these lines out of TABLE: {gone}"


def test_comments_and_docstrings_redo_nothing(copy: Path) -> None:
    before = fingerprints()
    for module in modules():
        path = copy.joinpath(*module.split(".")).with_suffix(".py")
        text = path.read_text()
        if text.startswith('"""'):
            text = '"""Said otherwise. ' + text[3:]
        path.write_text(f"# why\n{text}\n# and more\n")
    assert fingerprints() == before


def test_every_step_that_has_a_key_is_in_the_table() -> None:
    named = set()
    for package in (*PACKAGES, "kfp_pipelines"):
        for path in (ROOT / package).rglob("*.py"):
            named |= set(re.findall(r'(?:module=|fingerprint\()"([a-z_.]+)"', path.read_text()))
    assert named == set(KEYS.values()), "KEYS lists the modules that Step.of and fingerprint are given"
