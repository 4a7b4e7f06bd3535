"""The record of a run: one JSON document that other tools read."""

import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgedistill.errors import ConfigError
from edgedistill.steps import Manifest, fingerprint
from edgedistill.storage import ObjectStore, pretty_json

_RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
LATEST = "latest"  # in place of a run id
FINISHED, GATE_MISSED, FAILED, INTERRUPTED, UNFINISHED = (
    "finished",
    "gate missed",
    "failed",
    "interrupted",
    "unfinished",
)
LIBRARIES = ("torch", "timm", "onnx", "openvino", "nncf", "numpy", "pillow", "pyarrow")  # whose versions a record holds


def new_run_id() -> str:
    """A name that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(2).hex()}"


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def machine() -> dict[str, Any]:
    """CPU name, the instruction sets that matter for int8 and bf16, and the cores this process may use."""
    cpu, flags = platform.processor() or platform.machine(), []
    info = Path("/proc/cpuinfo")
    if info.exists():
        text = info.read_text()
        names = re.findall(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
        cpu = names[0] if names else cpu
        found = re.findall(r"^flags\s*:\s*(.+)$", text, re.MULTILINE)
        flags = sorted(f for f in (found[0].split() if found else []) if f.startswith(("avx", "amx")))
    return {
        "cpu": cpu,
        "flags": flags,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def build_record(
    *, run_id: str, started: str, target: str, config: Mapping[str, Any], steps: Mapping[str, Manifest]
) -> dict[str, Any]:
    """The record from the manifests of a run's steps.

    Args:
        run_id: of the run.
        started: UTC, ISO 8601.
        target: `local`, or the name of a cluster.
        config: the RunConfig as a mapping.
        steps: in the order that they ran; names as in `kfp_pipelines.distillation`.
    """
    images, teacher = steps["ingest_images"].outputs, steps["publish_teacher"].outputs
    evaluation, release = steps["evaluate_student"], steps["publish_release"].outputs
    scoring = steps["score_teacher"].measured
    gates = steps["quantize_student"].outputs["gates"]
    record = {
        "run_id": run_id,
        "status": FINISHED if all(one["passed"] for one in gates) else GATE_MISSED,
        "started": started,
        "finished": now(),
        "target": target,
        "config": config,
        "machine": machine(),
        "dataset": {
            "name": images["name"],
            "revision": images["revision"],
            "classes": images["classes"],
            **images["counts"],
            "test_labeled": evaluation.outputs["test_labeled"],
            "rejected": images["rejected"],
            "reject_reasons": images.get("reject_reasons", {}),
        },
        "labels": teacher.get("labels") or images["classes"],
        "teacher": {
            "name": teacher["name"],
            "digest": teacher["digest"],
            "server": scoring.get("server"),
            "labels_used": steps["train_teacher"].outputs["labels_used"] if "train_teacher" in steps else None,
        },
        "metrics": _metrics(evaluation),
        "gates": gates,
        "kd_gap_closed": evaluation.outputs["kd_gap_closed"],
        "int8_net_lost": evaluation.outputs["int8_net_lost"],
        "scoring": {name: scoring.get(name) for name in ("images_per_s", "in_process_images_per_s", "ratio")},
        "steps": [{"name": name, "key": m.key, "seconds": m.seconds, "cached": m.cached} for name, m in steps.items()],
        "release": {name: release[name] for name in ("name", "version", "digest")},
        "lineage": {name: m.digest for name, m in steps.items() if m.key},
        "code": {name: fingerprint(f"components.{m.step}.run") for name, m in steps.items() if m.key},
        "libraries": {name: found for name in LIBRARIES if (found := _version(name))},
    }
    notes = [note for m in steps.values() for note in m.outputs.get("notes", [])]
    return record | {"notes": list(dict.fromkeys([*notes, *_unmeasured(record)])), "headline": headline(record)}


def _metrics(evaluation: Manifest) -> dict[str, Any]:
    """Model -> its numbers; a model that was not trained is null."""
    latency = evaluation.measured.get("latency_ms_p50", {})
    return {
        name: measures
        and {**measures, "size_bytes": evaluation.outputs["sizes"][name], "latency_ms_p50": latency.get(name)}
        for name, measures in evaluation.outputs["metrics"].items()
    }


def _unmeasured(record: Mapping[str, Any]) -> list[str]:
    """What the record cannot say, and why."""
    notes = []
    if record["metrics"]["teacher"]["top1"] is None:
        notes.append(
            "No test image has a label, so accuracy was not measured; what stands here is agreement with the teacher."
        )
    if record["metrics"]["vanilla"] is None:
        notes.append("No training image has a label, so there is no vanilla twin and no gap to close.")
    return notes


def headline(record: Mapping[str, Any]) -> str:
    """The run in one sentence."""
    metrics, test = record["metrics"], record["dataset"]["test"]
    int8, teacher = metrics["student_int8"], metrics["teacher"]
    if int8["top1"] is None:
        text = f"The int8 student gives the teacher's answer for {percent(int8['agreement_with_teacher'])} "
        text += f"of {test:,} test images"
    else:
        known = record["dataset"]["test_labeled"]
        text = f"The int8 student is right about {percent(int8['top1'])} of {known:,} "
        text += "test images, " if known == test else "test images with a label, "
        text += f"the teacher about {percent(teacher['top1'])}"
    if record["kd_gap_closed"] is not None:
        text += f"; distillation closes {percent(record['kd_gap_closed'])} of the gap that labels alone leave"
    text += f"; it takes {size(int8['size_bytes'])} instead of {size(teacher['size_bytes'])}."
    if record["status"] == GATE_MISSED:
        missed = ", ".join(one["name"] for one in record["gates"] if not one["passed"])
        return f"Nothing was released, a gate was missed ({missed}). {text}"
    return text


def percent(value: float | None) -> str:
    """Per cent with one digit, or `unknown`."""
    return "unknown" if value is None else f"{100 * value:.1f} %"


def size(count: float) -> str:
    """Bytes for people, in steps of 1000."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if count < 1000 or unit == "GB":
            return f"{count:.0f} {unit}" if count >= 10 or unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    raise AssertionError  # the loop always returns


def _version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def save_record(store: ObjectStore, record: Mapping[str, Any], report: str) -> str:
    """Write `runs/<run-id>/record.json` (last) and `report.html`; gives their prefix."""
    prefix = f"runs/{record['run_id']}"
    store.put(f"{prefix}/report.html", report.encode())
    store.put(f"{prefix}/record.json", pretty_json(record))
    return prefix


def list_runs(store: ObjectStore) -> list[str]:
    """Run ids with a record, oldest first."""
    keys = (key.split("/") for key in store.list("runs/"))
    return sorted(parts[1] for parts in keys if parts[2:] == ["record.json"])


def read_record(store: ObjectStore, run_id: str) -> dict[str, Any]:
    """One record; `latest` is the newest run that came to its end.

    Raises:
        ConfigError: no such run, or one that failed and has no record.
    """
    runs = list_runs(store)
    if run_id == LATEST:
        if not runs:
            raise ConfigError(f"store {store.uri} holds no finished run; start one with: edgedistill run")
        run_id = runs[-1]
    if run_id not in runs or not _RUN_ID.fullmatch(run_id):
        raise ConfigError(f"no record of a run {run_id!r}; see: edgedistill runs list")
    record: dict[str, Any] = json.loads(store.get(f"runs/{run_id}/record.json"))
    return record
