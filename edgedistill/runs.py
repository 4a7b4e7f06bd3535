"""The record of a run: one JSON document that other tools read."""

import json
import os
import platform
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edgedistill.errors import ConfigError
from edgedistill.steps import Manifest
from edgedistill.storage import ObjectStore, pretty_json

_RUN_ID = re.compile(r"[0-9]{8}-[0-9]{6}-[0-9a-f]{4}")
MODELS = ("teacher", "vanilla", "student_fp32", "student_int8")


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
    latency = evaluation.measured.get("latency_ms_p50", {})
    metrics = {
        name: {
            **evaluation.outputs["metrics"][name],
            "size_bytes": evaluation.outputs["sizes"][name],
            "latency_ms_p50": latency.get(name),
        }
        for name in MODELS
    }
    scoring = steps["score_teacher"].measured
    return {
        "run_id": run_id,
        "started": started,
        "finished": now(),
        "target": target,
        "config": config,
        "machine": machine(),
        "dataset": {
            "revision": images["revision"],
            "classes": images["classes"],
            **images["counts"],
            "rejected": images["rejected"],
        },
        "teacher": {
            "digest": teacher["digest"],
            "server": scoring.get("server"),
            "labels_used": steps["train_teacher"].outputs["labels_used"] if "train_teacher" in steps else None,
        },
        "metrics": metrics,
        "gates": steps["quantize_student"].outputs["gates"],
        "kd_gap_closed": evaluation.outputs["kd_gap_closed"],
        "int8_net_lost": evaluation.outputs["int8_net_lost"],
        "scoring": {name: scoring.get(name) for name in ("images_per_s", "in_process_images_per_s", "ratio")},
        "steps": [{"name": name, "seconds": m.seconds, "cached": m.cached} for name, m in steps.items()],
        "release": {name: release[name] for name in ("name", "version", "digest")},
        "lineage": {name: m.digest for name, m in steps.items() if m.key},
    }


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
    """One record; `latest` is the newest.

    Raises:
        ConfigError: no such run.
    """
    runs = list_runs(store)
    if not runs:
        raise ConfigError(f"store {store.uri} holds no run; start one with: make pipeline-run")
    if run_id == "latest":
        run_id = runs[-1]
    if run_id not in runs or not _RUN_ID.fullmatch(run_id):
        raise ConfigError(f"no run {run_id!r}; see: edgedistill runs list")
    record: dict[str, Any] = json.loads(store.get(f"runs/{run_id}/record.json"))
    return record
