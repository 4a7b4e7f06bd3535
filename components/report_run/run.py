"""The run's record and report; and the end of a run that missed a gate."""

from collections.abc import Mapping
from typing import Any

from edgedistill.errors import GateError
from edgedistill.history_page import write_index
from edgedistill.progress import Progress
from edgedistill.report import build_page
from edgedistill.runs import build_record, save_record
from edgedistill.steps import Manifest
from edgedistill.storage import open_store


def run(
    *,
    store: str,
    run_id: str,
    started: str,
    target: str,
    config: dict[str, Any],
    labels_used: int,
    progress: Progress,
    **steps: Manifest,
) -> Manifest:
    """Write `runs/<run-id>/{record.json,report.html}`, and `runs/index.html` anew.

    Args:
        store: address of the object store.
        run_id: of the run.
        started: UTC, ISO 8601.
        target: `local`, or the name of a cluster.
        config: the RunConfig as a mapping.
        labels_used: labels that the teacher was trained with, 0 when unknown.
        progress: unused; the step takes a second.
        steps: the manifests of the run, in the order of the pipeline.

    Returns:
        outputs: record and report (keys), and the numbers that Kubeflow's UI shows.

    Raises:
        GateError: a gate was missed; the record and the report are written, the release is not.
    """
    objects = open_store(store)
    record = build_record(run_id=run_id, started=started, target=target, config=config, steps=steps)
    record["teacher"]["labels_used"] = labels_used or None
    prefix = save_record(objects, record, build_page(objects, record, steps))
    write_index(objects)
    if missed := [one for one in record["gates"] if not one["passed"]]:
        table = "; ".join(f"{one['name']} is {one['value']:g}, the limit {one['limit']:g}" for one in missed)
        raise GateError(f"nothing was published, a gate was missed: {table}; see {prefix}/report.html")
    return Manifest("report_run", "", _outputs(prefix, record, steps))


def _outputs(prefix: str, record: Mapping[str, Any], steps: Mapping[str, Manifest]) -> dict[str, Any]:
    shown = {f"{name}_top1": values["top1"] for name, values in record["metrics"].items() if values}
    shown = {name: value for name, value in shown.items() if value is not None}
    if record["kd_gap_closed"] is not None:
        shown["kd_gap_closed"] = record["kd_gap_closed"]
    return {
        "headline": record["headline"],
        "record": f"{prefix}/record.json",
        "report": f"{prefix}/report.html",
        "shown": shown,
        "classes": record["labels"],
        "confusion": steps["evaluate_student"].outputs["confusion"],
    }
