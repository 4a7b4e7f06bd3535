"""Models that are bad or heavy, signed all the same. Each is a real OpenVINO model of the tiny shape."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops

from edgedistill import bundle, signing
from edgedistill.images import encode_png
from edgedistill.inference import Student
from tests.edge.conftest import CLASSES, SIZE, Publisher, class_counts, pictures, tiny_model

Spoil = Callable[[Any], Any]  # (B, 3) mean colours in, the same out


def spoiled(spoil: Spoil) -> ov.Model:
    """tiny_model(1) with something between the mean colours and the linear layer."""
    weights = np.random.default_rng(1).normal(0, 1, (3, CLASSES)).astype(np.float32)
    image = ops.parameter([-1, SIZE, SIZE, 3], np.uint8, name="image")
    mean = spoil(ops.reduce_mean(ops.convert(image, np.float32), ops.constant([1, 2]), False))
    scaled = ops.multiply(mean, ops.constant(np.float32(1 / 32)))
    logits = ops.matmul(scaled, ops.constant(weights), False, False)
    model = ov.Model([ops.result(logits, name="logits")], [image], "tiny")
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model


def slow(rounds: int) -> Spoil:
    """The same answers, `rounds` turns of a loop later: 5 to 40 us each."""

    def spoil(mean: Any) -> Any:
        inside = ops.parameter([-1, 3], np.float32)
        halved = ops.multiply(inside, ops.constant(np.float32(0.5)))
        always = ops.constant(np.array([True]))
        loop = ops.loop(ops.constant(np.int64(rounds)), ops.constant(np.array([True])))
        body = ov.Model([ops.result(halved), ops.result(always)], [inside])
        loop.set_function(body)
        loop.set_special_body_ports([-1, 1])
        loop.set_merged_input(inside, mean.output(0), body.results[0].output(0))
        last = loop.get_iter_value(body.results[0].output(0), -1)
        return ops.add(mean, ops.multiply(last, ops.constant(np.float32(0))))

    return spoil


def greedy(megabytes: int) -> Spoil:
    """The compiler folds a constant of this size: a file of 7 kB that eats memory before its first answer."""

    def spoil(mean: Any) -> Any:
        shape = ops.constant(np.array([megabytes, 512, 512], np.int64))
        huge = ops.add(ops.broadcast(ops.constant(np.float32(1)), shape), ops.constant(np.float32(1)))
        total = ops.reduce_sum(huge, ops.constant([0, 1, 2]), False)
        return ops.add(mean, ops.multiply(total, ops.constant(np.float32(0))))

    return spoil


def heavy(size_bytes: int, seed: int) -> Spoil:
    """The same answers from a model.bin of this size, other bytes for each seed."""
    weights = np.random.default_rng(seed).random(size_bytes // 4, np.float32)
    return lambda mean: ops.add(
        mean,
        ops.multiply(ops.reduce_max(ops.constant(weights), ops.constant([0]), False), ops.constant(np.float32(0))),
    )


def not_finite_above(level: float) -> Spoil:
    """NaN for pictures that are brighter than `level` on average: 0 always, 250 for white ones only."""
    return lambda mean: ops.add(
        mean, ops.multiply(ops.sqrt(ops.subtract(ops.constant(np.float32(level)), mean)), ops.constant(np.float32(0)))
    )


def publish(
    publisher: Publisher, model: ov.Model, answers: Sequence[Sequence[float]] | None = None, *, name: str = "tiny"
) -> int:
    """Sign and publish a model as the next version; `answers` (3, K) are its golden ones, its own by default."""
    version = signing.next_version(publisher.store, name)
    folder = publisher.folder / f"bundle-{version}"
    folder.mkdir()
    ov.save_model(model, folder / "m.xml", compress_to_fp16=False)
    xml, weights = (folder / "m.xml").read_bytes(), (folder / "m.bin").read_bytes()
    (folder / "m.xml").unlink(), (folder / "m.bin").unlink()
    golden = [[float(x) for x in row] for row in (Student(model).logits(pictures(3)) if answers is None else answers)]
    bundle.write_bundle(
        folder,
        name=name,
        version=version,
        created="2026-01-01T00:00:00Z",
        model_xml=xml,
        model_bin=weights,
        labels=[f"class-{i}" for i in range(CLASSES)],
        size=SIZE,
        golden=[(encode_png(picture), row) for picture, row in zip(pictures(3), golden, strict=True)],
        class_counts=class_counts(tiny_model(1)),
    )
    return signing.publish(publisher.store, publisher.keys, folder)


def good_answers() -> list[list[float]]:
    """(3, K) of tiny_model(1), which a spoiled model claims as its own."""
    answers: list[list[float]] = Student(tiny_model(1)).logits(pictures(3)).tolist()
    return answers
