"""A step's key: what changes it, and what does not."""

from pathlib import Path

import pytest

from edgedistill import steps
from edgedistill.config import DistillConfig
from edgedistill.steps import Step
from edgedistill.storage import open_store


def _fingerprint(root: Path, monkeypatch: pytest.MonkeyPatch, **sources: str) -> str:
    package = root / "edgedistill"
    package.mkdir(exist_ok=True)
    for name, text in sources.items():
        (package / f"{name}.py").write_text(text)
    monkeypatch.setattr(steps, "_ROOT", root)
    steps.fingerprint.cache_clear()
    found = steps.fingerprint("edgedistill.work")
    steps.fingerprint.cache_clear()
    return found


def test_code_counts_comments_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = "def f():\n    from edgedistill.deep import x\n    return x\n"
    first = _fingerprint(tmp_path, monkeypatch, work=work, deep="x = 1\n")
    commented = '"""Said."""\n\ndef f():\n    """Too."""\n    # why\n    from edgedistill.deep import x\n    return x\n'
    assert _fingerprint(tmp_path, monkeypatch, work=commented) == first
    assert _fingerprint(tmp_path, monkeypatch, deep="x = 2\n") != first, "an import inside a function counts"
    assert _fingerprint(tmp_path, monkeypatch, deep="x = 1\n", other="y = 1\n") == first, (
        "what is not imported does not"
    )


def test_a_finished_step_is_found_and_the_first_manifest_wins(tmp_path: Path) -> None:
    store = open_store(tmp_path)

    def step(temperature: float) -> Step:
        settings = DistillConfig(temperature=temperature)
        return Step.of(store, "x", module="edgedistill.losses", inputs={"a": "1"}, settings=settings)

    assert step(4).find() is None
    made = step(4).finish({"value": 1}, {"seconds": 2.0})
    assert not made.cached
    assert step(4).finish({"value": 2}).outputs == {"value": 1}
    found = step(4).find()
    assert found is not None
    assert found.cached
    assert (found.digest, found.measured) == (made.digest, {"seconds": 2.0})
    assert step(3).find() is None
