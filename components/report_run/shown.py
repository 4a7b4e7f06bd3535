"""Kubeflow's own artifacts from the finished record: scalars, the confusion matrix, the page."""

from pathlib import Path
from typing import Any

from edgedistill.steps import read_manifest
from edgedistill.storage import open_store


def show(store: str, record: Any, *, metrics: Any, confusion: Any, report: Any) -> None:
    """Fill kfp's Metrics, ClassificationMetrics and HTML artifacts from the step's manifest."""
    made = read_manifest(Path(record.path)).outputs
    for name, value in made["shown"].items():
        metrics.log_metric(name, value)
    if made["confusion"]:
        confusion.log_confusion_matrix(made["classes"], made["confusion"])
    Path(report.path).write_bytes(open_store(store).get(made["report"]))
