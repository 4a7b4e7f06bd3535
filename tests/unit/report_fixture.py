"""A finished run made from numbers, for the tests of report and history: no training, real pictures."""

from dataclasses import asdict
from typing import Any

import numpy as np

from edgedistill.answers import write_answers
from edgedistill.config import RunConfig
from edgedistill.dataset import ImageRow
from edgedistill.images import encode_png
from edgedistill.runs import build_record
from edgedistill.steps import Manifest
from edgedistill.storage import ObjectStore, digest

ODD = ("<script>alert(1)</script>", "\"quotes\" & 'more'", "日本語 ёж", "plain")


def make_run(
    store: ObjectStore,
    *,
    run_id: str = "20260101-000000-0001",
    labels: tuple[str, ...] = ODD,
    labeled: bool = True,
    images: int = 24,
    passed: bool = True,
    seed: int = 0,
    shape: tuple[int, int] = (28, 28),
) -> tuple[dict[str, Any], dict[str, Manifest]]:
    """The record and the manifests of a run over `images` random test pictures."""
    draw = np.random.default_rng(seed)
    rows = []
    for i in range(images):
        data = encode_png(draw.integers(0, 256, (*shape, 3), dtype=np.uint8))
        name = digest(data)
        key = f"datasets/odd/images/{name}.png"
        store.put(key, data)
        source = f"{labels[i % len(labels)]}/<b>{i}</b>.png"
        rows.append(ImageRow(name, key, None, None, "test", shape[1], shape[0], source))
    truth = np.arange(images) % len(labels) if labeled else np.full(images, -1)
    right = np.eye(len(labels), dtype=np.float32)[np.arange(images) % len(labels)] * 3
    noise = {"teacher": 0.7, "vanilla": 2.5, "student_fp32": 1.4, "student_int8": 1.6}
    logits = {n: (right + draw.normal(0, s, right.shape)).astype(np.float32) for n, s in noise.items()}
    if not labeled:
        del logits["vanilla"]
    return _record(store, run_id, rows, truth, logits, labels, passed)


def _record(
    store: ObjectStore,
    run_id: str,
    rows: list[ImageRow],
    truth: Any,
    logits: dict[str, Any],
    labels: tuple[str, ...],
    passed: bool,
) -> tuple[dict[str, Any], dict[str, Manifest]]:
    from components.evaluate_student.run import _measures

    history = [{"epoch": e, "loss": 2 / (e + 1), "agreement": 0.5 + e / 20} for e in range(0, 9, 3)]
    tops = [
        {"top1": 0.4 + h["epoch"] / 20, "top5": 0.9} if truth[0] >= 0 else {"top1": None, "top5": None} for h in history
    ]
    curves = [a | b for a, b in zip(history, tops, strict=True)]
    store.put("datasets/odd/rejects/r.jsonl", b'{"file": "<i>x</i>.png", "reason": "5 bytes are no PNG <b>"}\n')
    gates = [{"name": "int8 net images lost", "value": 1, "limit": 2 if passed else 0, "passed": passed}]
    counts = {"train": 48, "validation": 12, "test": len(rows), "labeled": 8 if truth[0] >= 0 else 0}
    sizes = {name: 40_000 // (i + 1) for i, name in enumerate(logits)}
    outputs: dict[str, dict[str, Any]] = {
        "ingest_images": {
            "name": "odd",
            "revision": digest(b"revision"),
            "rejects": "datasets/odd/rejects/r.jsonl",
            "rejected": 1,
            "classes": list(labels) if truth[0] >= 0 else [],
            "counts": counts,
            "notes": ["A note with <b>markup</b>."],
        },
        "publish_teacher": {"name": "odd-teacher", "digest": digest(b"teacher"), "labels": list(labels)},
        "score_teacher": {"parts": []},
        "distill_student": {"history": curves},
        "distill_vanilla": {"history": curves if "vanilla" in logits else [], "model": "vanilla" in logits},
        "quantize_student": {"gates": gates},
        "evaluate_student": _measures(logits, truth)
        | {"sizes": sizes, "answers": write_answers(store, rows, truth, logits)},
        "publish_release": {
            "name": "odd",
            "version": 3 if passed else None,
            "digest": digest(b"release") if passed else None,
        },
    }
    steps = {
        name: Manifest(name.replace("vanilla", "student"), digest(name.encode())[:32], made, seconds=1.5)
        for name, made in outputs.items()
    }
    record = build_record(
        run_id=run_id, started="2026-01-01T00:00:00Z", target="local", config=asdict(RunConfig()), steps=steps
    )
    return record, steps
