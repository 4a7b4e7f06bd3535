"""`edgedistill runs ...`: the history of runs."""

import json

import click
from rich.console import Console
from rich.table import Column, Table

from edgedistill import runs
from edgedistill.place import Place, placed
from edgedistill.terminal import results_table


@click.group("runs")
def runs_group() -> None:
    """The history of runs."""


@runs_group.command("list")
@placed
def list_runs(place: Place) -> None:
    """All runs, oldest first."""
    store = place.open()
    table = Table(Column("run", no_wrap=True), Column("finished", no_wrap=True), "release", "int8 top-1", "gap closed")
    for run_id in runs.list_runs(store):
        record = runs.read_record(store, run_id)
        release = record["release"]
        table.add_row(
            run_id,
            record["finished"],
            f"{release['name']} {release['version'] or 'none'}",
            runs.percent(record["metrics"]["student_int8"]["top1"]),
            runs.percent(record["kd_gap_closed"]),
        )
    Console().print(table)


@runs_group.command("show")
@click.argument("run_id", default="latest")
@click.option("--json", "as_json", is_flag=True, help="The whole record.")
@placed
def show_run(run_id: str, as_json: bool, place: Place) -> None:
    """One run; `latest` is the newest."""
    record = runs.read_record(place.open(), run_id)
    if as_json:
        click.echo(json.dumps(record, indent=2, sort_keys=True))
    else:
        Console().print(results_table(record))
