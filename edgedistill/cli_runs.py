"""`edgedistill runs ...`: the history of runs."""

import json
import os
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from edgedistill import history, runs
from edgedistill.errors import ConfigError
from edgedistill.place import Place, placed
from edgedistill.storage import DirectoryStore, ObjectStore
from edgedistill.terminal import results_table

_BYTES = ("int8_bytes", "teacher_bytes")
_PLAIN = ("int8_net_lost", "test_images", "seconds", "int8_ms", "teacher_ms")
as_json = click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")


@click.group("runs")
def runs_group() -> None:
    """The history of runs."""


@runs_group.command("list")
@as_json
@placed
def list_runs(as_json: bool, place: Place) -> None:
    """All runs, oldest first; failed, interrupted and unfinished ones too."""
    found = history.rows(place.open())
    if as_json:
        click.echo(json.dumps(found, indent=2, sort_keys=True))
        return
    narrow = [Column(name, no_wrap=True) for name in ("run", "finished", "status")]
    table = Table(*narrow, "data set", "teacher", "student", "int8 top-1", "gap closed", "release", box=SIMPLE_HEAD)
    for row in found:
        finished = (row["finished"] or "").replace("T", " ")[:16]  # UTC
        texts = [row["run"], finished, row["status"], row["dataset"], row["teacher"], row["student"]]
        measures = row["measures"]
        numbers = [runs.percent(measures[name]) if measures else "" for name in ("int8_top1", "gap_closed")]
        table.add_row(*(escape(text) for text in texts), *numbers, str(row["release"] or "none"))
    console = _console()
    console.print(table)
    for row in found:
        if row["message"]:
            where = f" in {row['step']}" if row["step"] else ""
            console.print(escape(f"{row['run']} {row['status']}{where}: {row['message']}"), soft_wrap=True)


@runs_group.command("show")
@click.argument("run_id", default=runs.LATEST)
@as_json
@placed
def show_run(run_id: str, as_json: bool, place: Place) -> None:
    """One run; `latest` is the newest that came to its end. As JSON: the whole record."""
    store = place.open()
    if run_id == runs.LATEST or run_id in runs.list_runs(store):
        record = runs.read_record(store, run_id)
        if as_json:
            click.echo(json.dumps(record, indent=2, sort_keys=True))
            return
        console = _console()
        for line in (record.get("headline"), *record.get("notes", [])):
            console.print(escape(line or ""), soft_wrap=True)
        console.print(results_table(record))
        return
    row = history.read_row(store, run_id)
    if as_json:
        click.echo(json.dumps(row, indent=2, sort_keys=True))
    else:
        said = f"{row['step']}: {row['message']}" if row["message"] else "going on, or killed; it left no word"
        click.echo(f"run {row['run']}, started {row['started']}: {row['status']}; {said}")


@runs_group.command("compare")
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN RUN [RUN...]")
@as_json
@placed
def compare_runs(run_ids: tuple[str, ...], as_json: bool, place: Place) -> None:
    """Runs side by side: their measures, and the settings and inputs that differ."""
    if len(run_ids) < 2:
        raise ConfigError("one run has nothing to be compared with; give two or more, see: edgedistill runs list")
    store = place.open()
    found = history.compare([history.read_row(store, _resolved(store, run_id)) for run_id in run_ids])
    if as_json:
        click.echo(json.dumps(found, indent=2))
        return
    console = _console()
    for part, title in (
        ("measures", "measures"),
        ("settings", "settings that differ"),
        ("inputs", "inputs that differ"),
    ):
        if not found[part]:
            console.print(f"{title}: none")
            continue
        table = Table(title, *(Column(run, justify="right") for run in found["runs"]), box=SIMPLE_HEAD)
        for name, values in found[part].items():
            table.add_row(escape(name.replace("_", " ")), *(escape(_shown(name, value)) for value in values))
        console.print(table)


@runs_group.command("page")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="File; else runs/index.html in the store.")
@placed
def write_page(out: Path | None, place: Place) -> None:
    """Write the history as one page that works without a server."""
    from edgedistill.history_page import INDEX, render_history, write_index

    store = place.open()
    if out is None:
        write_index(store)
        click.echo(f"{store.uri}/{INDEX}")
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    reports = _relative(store, out.resolve().parent)
    temporary = out.with_name(f".tmp-{out.name}")
    temporary.write_text(render_history(history.rows(store), reports=reports))
    temporary.replace(out)
    click.echo(str(out))


def _console() -> Console:
    """As wide as the terminal; where a program or a file reads, no line is broken."""
    return Console() if sys.stdout.isatty() else Console(width=240)


def _relative(store: ObjectStore, folder: Path) -> str:
    """What stands before `<run-id>/report.html` in a page that lies in another folder."""
    if not isinstance(store, DirectoryStore):
        return ""  # beside a copy of runs/
    return quote(os.path.relpath(store.root / "runs", folder)) + "/"


def _resolved(store: ObjectStore, run_id: str) -> str:
    return str(runs.read_record(store, run_id)["run_id"]) if run_id == runs.LATEST else run_id


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "–"
    if name in _BYTES:
        return runs.size(value)
    if isinstance(value, float) and name not in _PLAIN and "." not in name:
        return runs.percent(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
