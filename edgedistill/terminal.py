"""What the commands draw: tables of results, a bar a step."""

import sys
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgedistill import runs
from edgedistill.metrics import MODELS


def results_table(record: dict[str, Any]) -> Table:
    """Teacher, vanilla, student fp32 and int8 on the test split."""
    table = Table("model", "top-1", "agrees with teacher", "size", title=f"run {record['run_id']}")
    for name in MODELS:
        values = record["metrics"][name]
        if values is None:  # nothing had a label, so it was not trained
            continue
        table.add_row(
            name.replace("_", " "),
            runs.percent(values["top1"]),
            runs.percent(values["agreement_with_teacher"]),
            runs.size(values["size_bytes"]),
        )
    lost = "unknown" if record["int8_net_lost"] is None else f"{record['int8_net_lost']} images net"
    table.caption = f"gap closed {runs.percent(record['kd_gap_closed'])}, int8 lost {lost}"
    return table


class StepBars:
    """A bar a step, drawn from the steps' events; silent where nobody looks."""

    def __init__(self) -> None:
        columns = SpinnerColumn(), TextColumn("{task.description:<18}"), BarColumn(), TextColumn("{task.fields[note]}")
        self._bars = Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True))
        self._quiet = not sys.stderr.isatty()
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> "StepBars":
        if not self._quiet:
            self._bars.start()
        return self

    def __exit__(self, *error: object) -> None:
        if not self._quiet:
            self._bars.stop()

    def show(self, event: Any) -> None:
        """Draw one line of progress."""
        if self._quiet:
            return
        name = event["step"]
        if event["event"] == "started" or name not in self._tasks:
            self._tasks[name] = self._bars.add_task(name.replace("_", " "), total=None, note="")
        task = self._tasks[name]
        if event["event"] == "progress":
            self._bars.update(task, completed=event["done"], total=event["total"], note=event["note"])
        elif event["event"] == "finished":
            self._bars.update(task, completed=1, total=1, note="nothing to do" if event["cached"] else "done")
            self._bars.stop_task(task)
        else:
            self._bars.update(task, note="failed" if event["event"] == "failed" else "")
