"""The int8 ladder on the tiny run's own student."""

from dataclasses import asdict

import pytest

from components.quantize_student.run import RUNGS, run
from edgedistill.config import PRESETS
from edgedistill.progress import Progress
from edgedistill.steps import Manifest, Step
from edgedistill.storage import open_store
from tests.pipeline.conftest import Home

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def made(home: Home, step: str, **wanted: object) -> Manifest:
    """The manifest of a step of the finished run."""
    store = open_store(home.store)
    for key in store.list(f"steps/{step}/"):
        found = Step(store, step, key.split("/")[2]).find()
        if found and all(found.outputs.get(field) == value for field, value in wanted.items()):
            return found
    raise AssertionError(f"no {step} with {wanted}")


def quantise(home: Home, enough: float) -> Manifest:
    config = asdict(PRESETS["tiny"].quantize) | {"enough_agreement": enough}
    images, student = made(home, "ingest_images", name="demo"), made(home, "distill_student", mode="student")
    return run(store=str(home.store), images=images, student=student, config=config, progress=Progress())


def agreement(quantised: Manifest) -> float:
    return float(next(gate["value"] for gate in quantised.outputs["gates"] if "agreement" in gate["name"]))


def test_it_climbs_until_it_agrees_and_keeps_the_best(copied: Home) -> None:
    first, best = quantise(copied, 0.0), quantise(copied, 1.01)
    assert first.outputs["rung"] == RUNGS[0], "the first rung is enough"
    assert agreement(best) >= agreement(first)
    assert best.outputs["rung"] in RUNGS
    assert best.outputs["int8"] != first.outputs["int8"] or best.outputs["rung"] == RUNGS[0]
