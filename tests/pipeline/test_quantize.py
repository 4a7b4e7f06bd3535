"""The int8 ladder on the tiny run's own student, and on one that post-training quantisation breaks."""

from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.quantize_student.run import run
from edgedistill.config import PRESETS, RUNGS
from edgedistill.conversion import read_model, store_model, to_bytes, to_openvino
from edgedistill.progress import Progress
from edgedistill.steps import Manifest, Step
from edgedistill.storage import open_store
from tests.pipeline.conftest import Home

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


def made(store: Path, step: str, **wanted: object) -> Manifest:
    """The manifest of a step of the finished run."""
    objects = open_store(store)
    for key in objects.list(f"steps/{step}/"):
        found = Step(objects, step, key.split("/")[2]).find()
        if found and all(found.outputs.get(field) == value for field, value in wanted.items()):
            return found
    raise AssertionError(f"no {step} with {wanted}")


def quantise(store: Path, student: Manifest | None = None, **settings: object) -> Manifest:
    tiny = PRESETS["tiny"]
    return run(
        store=str(store),
        images=made(store, "ingest_images", name="demo"),
        scores=made(store, "score_teacher"),
        student=student or made(store, "distill_student", mode="student"),
        config=asdict(tiny.quantize) | settings,
        distill=asdict(tiny.distill),
        scoring=asdict(tiny.score),
        progress=Progress(),
    )


def distorted(store: Path, factor: float) -> Manifest:
    """The same function in fp32: one channel of each block is `factor` times as large, and its readers divide by it.
    An activation has one range for all its channels, so in int8 the others keep 255 / factor levels."""
    from safetensors.torch import load
    from torch import nn

    from edgedistill.models import build

    student = made(store, "distill_student", mode="student")
    module = build(student.outputs["arch"], student.outputs["classes"])
    module.load_state_dict(load(open_store(store).get(student.outputs["weights"])))
    blocks = [block for block in module.children() if isinstance(block, nn.Sequential)]
    for block, following in pairwise(blocks):
        block[1].weight.data[0] *= factor  # batch normalisation; ReLU lets a positive factor through
        block[1].bias.data[0] *= factor
        following[0].weight.data[:, 0] /= factor
    model = store_model(open_store(store), to_openvino(module.eval(), student.outputs["size"]))
    return replace(student, outputs={**student.outputs, "model": model})


def passed(models: Manifest) -> dict[str, bool]:
    return {one["rung"]: one["passed"] for one in models.outputs["rungs"]}


def int8_inputs(model: Any) -> dict[str, int]:
    """Layer kind -> how many have an int8 weight and a quantised input."""
    found: dict[str, int] = {}
    for node in model.get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution", "MatMul"):
            assert "i8" in _kinds(node.input(1)), node
            assert "FakeQuantize" in _kinds(node.input(0)), node
            found[node.get_type_name()] = found.get(node.get_type_name(), 0) + 1
    return found


def _kinds(port: Any) -> set[str]:
    """Types of the operations, and of the constants' elements, that lead to a layer's input."""
    node = port.get_source_output().get_node()
    if node.get_type_name() == "Constant":
        return {node.get_element_type().get_type_name()}
    if node.get_type_name() in ("FakeQuantize", "Relu"):
        return {node.get_type_name()}
    return {node.get_type_name()}.union(*(_kinds(one) for one in node.inputs()))


def test_the_first_rung_that_agrees_ends_the_ladder(copied: Home) -> None:
    first = quantise(copied.store, enough_agreement=0.0)
    assert first.outputs["rung"] == RUNGS[0]
    assert list(passed(first)) == [RUNGS[0]]
    assert list(first.measured["seconds"]) == [RUNGS[0]]


def test_a_student_that_ptq_breaks_is_saved_by_distillation(copied: Home) -> None:
    student = distorted(copied.store, 100)
    models = quantise(copied.store, student)
    assert passed(models) == {"ptq": False, "ptq_full_bias_correction": False, "qad": True}
    assert models.outputs["rung"] == "qad"
    assert all(gate["passed"] for gate in models.outputs["gates"])
    store = open_store(copied.store)
    assert int8_inputs(read_model(store, models.outputs["int8"])) == {"Convolution": 5, "MatMul": 1}
    assert models.outputs["int8"]["size_bytes"] < models.outputs["fp32"]["size_bytes"] / 2
    # The control: without the rung the gates are missed, so it is the rung that saves the student.
    without = quantise(copied.store, student, last_rung="ptq_full_bias_correction")
    assert passed(without) == {"ptq": False, "ptq_full_bias_correction": False}
    assert not all(gate["passed"] for gate in without.outputs["gates"])


def test_what_was_trained_is_what_is_deployed(copied: Home) -> None:
    """The torch graph with trained weights, and OpenVINO's int8 of it, answer alike."""
    from components.quantize_student.fake_quantize import FakeQuantized
    from components.quantize_student.run import compressed, quantized
    from edgedistill.inference import Student
    from edgedistill.training import predict

    pictures = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 3), dtype=np.uint8)
    fp32 = read_model(open_store(copied.store), made(copied.store, "distill_student", mode="student").outputs["model"])
    module = FakeQuantized(quantized(fp32, pictures, full=False))
    before = predict(module, pictures)
    for weight in module.weights:
        weight.data += 0.1 * weight.data.std() * weight.data.sign()
    ours = predict(module, pictures)
    theirs = Student(compressed(module.trained())).logits(pictures)
    assert np.abs(ours - theirs).mean() < np.abs(ours - before).mean() / 4, "nearer than without the training"
    assert np.abs(ours - theirs).mean() < 0.1 * theirs.std()


def test_a_depthwise_net_is_trained(tmp_path: Path) -> None:
    """Its weights have five dimensions in OpenVINO's graph, which torch's channels_last refuses."""
    import torch
    from torch import nn

    from components.quantize_student.distillation import OFF
    from components.quantize_student.fake_quantize import FakeQuantized
    from components.quantize_student.run import compressed, quantized
    from edgedistill.inference import Student
    from edgedistill.training import Schedule, fit, predict

    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, groups=8), nn.ReLU())
    net.extend([nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3)])
    pictures = np.random.default_rng(0).integers(0, 256, (32, 28, 28, 3), dtype=np.uint8)
    pictures[::2] //= 4
    module = FakeQuantized(quantized(to_openvino(net, 28), pictures, full=False))
    targets = torch.arange(32) % 2
    schedule = Schedule(epochs=10, batch=8, lr=3e-2, weight_decay=0.0, seed=0)
    fit(
        module,
        pictures[:, None],
        lambda logits, image, view: nn.functional.cross_entropy(logits, targets[image]),
        schedule,
        progress=Progress(),
        note="qad",
    )
    theirs = Student(compressed(module.trained())).logits(pictures)
    assert (theirs.argmax(axis=1) == targets.numpy()).mean() > 0.95, "dark and bright are told apart"
    assert np.abs(predict(module, pictures) - theirs).mean() < OFF * theirs.std()


def test_equal_models_are_equal_bytes(copied: Home) -> None:
    """Names come from a counter of the process: the second quantisation would differ from the first by them."""
    from components.quantize_student.run import compressed, quantized

    pictures = np.random.default_rng(0).integers(0, 256, (8, 28, 28, 3), dtype=np.uint8)
    fp32 = read_model(open_store(copied.store), made(copied.store, "distill_student", mode="student").outputs["model"])
    one, other = (compressed(quantized(fp32, pictures, full=False)) for _ in range(2))
    assert to_bytes(one) == to_bytes(other)


def test_a_graph_that_cannot_be_trained_keeps_what_was_climbed(copied: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    from components.quantize_student import fake_quantize

    monkeypatch.delitem(fake_quantize.OPERATIONS, "Relu")
    models = quantise(copied.store, enough_agreement=1.01)
    assert passed(models) == {"ptq": True, "ptq_full_bias_correction": True, "qad": False}
    assert "Relu" in models.outputs["rungs"][-1]["note"]
    assert models.outputs["rung"] != "qad"


def test_size_and_latency_gate_only_where_a_limit_is_set(copied: Home) -> None:
    free = quantise(copied.store, enough_agreement=0.0)
    held = quantise(copied.store, last_rung="ptq", max_size_kb=1, max_latency_ms=1e-6)
    names = {gate["name"] for gate in free.outputs["gates"]}
    added = {gate["name"]: gate["passed"] for gate in held.outputs["gates"] if gate["name"] not in names}
    assert added == {"int8 size in kB": False, "int8 latency in ms": False}
