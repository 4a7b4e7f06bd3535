"""The history of runs: finished, failed, interrupted and unfinished ones, as rows that can be listed and compared.

`runs/<run-id>/` holds started.json from the start, and at the end record.json (the run came to its end) or failed.json
(it did not, and why). A run with neither is going on, or was killed.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from edgedistill.errors import ConfigError, EdgeDistillError, StorageError
from edgedistill.runs import FAILED, FINISHED, INTERRUPTED, UNFINISHED, now
from edgedistill.storage import ObjectStore, pretty_json

Event = Mapping[str, Any]
Row = dict[str, Any]
CLEAN_UP = "remove_teacher"  # runs after a failure too, so it is never the step that a run ended in


@contextlib.contextmanager
def recording(
    store: ObjectStore, *, run_id: str, target: str, config: Mapping[str, Any], on_event: Callable[[Event], None]
) -> Iterator[Callable[[Event], None]]:
    """Keep what is known of a run, however it ends; gives the callback that the run's events go through.

    Args:
        store: `runs/<run_id>/started.json` is written now, `failed.json` when the block raises.
        run_id: of the run.
        target: `local`, or the name of a cluster.
        config: the RunConfig as a mapping.
        on_event: called with every event.
    """
    begun = {"run_id": run_id, "started": now(), "target": target, "config": config}
    store.put(f"runs/{run_id}/started.json", pretty_json(begun))
    last, failed = "", ""

    def seen(event: Event) -> None:
        nonlocal last, failed
        if event["event"] == "failed":
            failed = failed or event["step"]
        elif event["step"] != CLEAN_UP:
            last = event["step"]
        on_event(event)

    try:
        yield seen
    except BaseException as error:
        ours = isinstance(error, EdgeDistillError)
        status = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
        said = "interrupted; the same command goes on from what is complete" if status == INTERRUPTED else str(error)
        message = said if ours or status == INTERRUPTED else f"{type(error).__name__}: {said}"
        with contextlib.suppress(StorageError):  # a store that is away is often the reason, and that is what is raised
            _end(store, {**begun, "status": status, "finished": now(), "step": failed or last, "message": message})
        raise


def _end(store: ObjectStore, ended: Mapping[str, Any]) -> None:
    prefix = f"runs/{ended['run_id']}"
    if store.exists(f"{prefix}/record.json"):  # a missed gate: the record says so, and more
        return
    store.put(f"{prefix}/failed.json", pretty_json(ended))
    from edgedistill.history_page import write_index

    write_index(store)


def rows(store: ObjectStore) -> list[Row]:
    """Every run, oldest first."""
    found: dict[str, set[str]] = {}
    for key in store.list("runs/"):
        parts = key.split("/")
        if len(parts) == 3:
            found.setdefault(parts[1], set()).add(parts[2])
    return [_row(store, run_id, found[run_id]) for run_id in sorted(found) if found[run_id] & set(_FILES)]


def read_row(store: ObjectStore, run_id: str) -> Row:
    """One run, whatever became of it.

    Raises:
        ConfigError: no such run.
    """
    files = {key.split("/")[2] for key in store.list(f"runs/{run_id}/") if key.count("/") == 2}
    if not run_id or not files & set(_FILES):
        raise ConfigError(f"no run {run_id!r}; see: edgedistill runs list")
    return _row(store, run_id, files)


_FILES = ("record.json", "failed.json", "started.json")  # the first that is there tells the most


def _row(store: ObjectStore, run_id: str, files: set[str]) -> Row:
    """What a list, a comparison and the page need of a run; the same fields for each."""
    name = next(one for one in _FILES if one in files)
    document = json.loads(store.get(f"runs/{run_id}/{name}"))
    config = document["config"]
    release, dataset = document.get("release", {}), document.get("dataset", {})
    distill = config.get("distill", {})
    return {
        "run": run_id,
        "status": document.get("status", FINISHED if name == "record.json" else UNFINISHED),
        "started": document["started"],
        "finished": document.get("finished"),
        "target": document["target"],
        "dataset": dataset.get("name") or config.get("ingest", {}).get("name", ""),
        "teacher": document.get("teacher", {}).get("name") or config.get("teacher", {}).get("name", ""),
        "student": f"{distill.get('arch', '')} {distill.get('size', 0):g}",  # kfp makes every number a float
        "release": release.get("version"),
        "step": document.get("step"),
        "message": document.get("message"),
        "headline": document.get("headline"),
        "report": f"{run_id}/report.html" if "report.html" in files else None,
        "measures": _measures(document) if name == "record.json" else {},
        "inputs": _inputs(document) if name == "record.json" else {},
        "settings": {f"{step}.{field}": value for step, values in config.items() for field, value in values.items()},
    }


def _measures(record: Mapping[str, Any]) -> dict[str, float | None]:
    """The numbers that runs are compared by."""
    models = {name: values or {} for name, values in record["metrics"].items()}
    tops = {f"{short}_top1": models.get(name, {}).get("top1") for short, name in _SHORT.items()}
    int8 = models["student_int8"]
    return tops | {
        "int8_agreement": int8["agreement_with_teacher"],
        "gap_closed": record["kd_gap_closed"],
        "int8_net_lost": record["int8_net_lost"],
        "int8_bytes": int8["size_bytes"],
        "teacher_bytes": models["teacher"]["size_bytes"],
        "int8_ms": int8["latency_ms_p50"],
        "teacher_ms": models["teacher"]["latency_ms_p50"],
        "test_images": record["dataset"]["test"],
        "seconds": round(sum(step["seconds"] for step in record["steps"]), 1),
    }


_SHORT = {"teacher": "teacher", "vanilla": "vanilla", "fp32": "student_fp32", "int8": "student_int8"}


def _inputs(record: Mapping[str, Any]) -> dict[str, str]:
    """What a run was made from: data, teacher, code and libraries."""
    return {
        "data set revision": record["dataset"]["revision"][:12],
        "teacher": record["teacher"]["digest"][:12],
        "machine": record["machine"]["cpu"],
        **{f"code of {name}": print_[:12] for name, print_ in record.get("code", {}).items()},
        **record.get("libraries", {}),
    }


def compare(chosen: Sequence[Row]) -> dict[str, Any]:
    """Runs side by side: all measures, and the settings and inputs that differ.

    Returns:
        runs: ids, statuses; measures, settings, inputs: name -> one value a run.
    """
    return {
        "runs": [row["run"] for row in chosen],
        "status": [row["status"] for row in chosen],
        "measures": _side_by_side([row["measures"] for row in chosen], every=True),
        "settings": _side_by_side([row["settings"] for row in chosen]),
        "inputs": _side_by_side([row["inputs"] for row in chosen]),
    }


def _side_by_side(columns: Sequence[Mapping[str, Any]], *, every: bool = False) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for column in columns for name in column)
    lines = {name: [column.get(name) for column in columns] for name in names}
    return {name: values for name, values in lines.items() if every or any(value != values[0] for value in values)}
