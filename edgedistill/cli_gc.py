"""`edgedistill gc`: say what nobody needs any more, and remove it when told to."""

import json
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import click
from rich.console import Console
from rich.table import Column, Table

from edgedistill import runs
from edgedistill.errors import ConfigError
from edgedistill.place import Place, placed
from edgedistill.steps import Manifest, read_manifest

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
WORK = "work folders of runs that ended or were killed"


@click.command("gc")
@click.option("--keep-runs", type=click.IntRange(min=0), help="Newest runs whose objects stay; else all of them.")
@click.option(
    "--min-age", default="24h", show_default=True, help="What was written or used lately stays; 90s, 24h, 7d."
)
@click.option("--idle", is_flag=True, help="No run goes on: a step that was begun and not finished holds nothing back.")
@click.option("--yes", is_flag=True, help="Remove; without it nothing is changed.")
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@placed
def collect_garbage(keep_runs: int | None, min_age: str, idle: bool, yes: bool, as_json: bool, place: Place) -> None:
    """Remove what no kept run and no published release needs; without --yes only say what that is.

    Records, reports and signed releases always stay.
    """
    from edgedistill import collect

    age, store = _seconds(min_age), place.open()
    made = collect.plan(store, keep_runs=keep_runs, min_age_s=age, idle=idle, roots=_memos(place.folder))
    folders = list(_work_folders(place.folder, time.time() - age))
    found = {collect.KINDS[kind]: numbers for kind, numbers in made.by_kind().items()}
    if folders:
        found[WORK] = (len(folders), sum(_size(folder) for folder in folders))
    if yes:
        collect.remove(store, made)
        for folder in folders:
            shutil.rmtree(folder)
    if as_json:
        kinds = {why: {"count": count, "bytes": size} for why, (count, size) in found.items()}
        keys = [one.entry.key for one in made.removals]
        click.echo(json.dumps({"removed": yes, "busy": made.busy, "kinds": kinds, "objects": keys}, indent=2))
    else:
        _print(found, kept=made.kept, busy=made.busy, removed=yes)


def _print(found: Mapping[str, tuple[int, int]], *, kept: int, busy: str | None, removed: bool) -> None:
    console = Console()
    if found:
        table = Table("what", Column("how many", justify="right"), Column("size", justify="right"))
        for why, (count, size) in found.items():
            table.add_row(why, f"{count:,}", runs.size(size))
        table.add_row(
            "together", f"{sum(n for n, _ in found.values()):,}", runs.size(sum(s for _, s in found.values()))
        )
        console.print(table)
    if busy:
        console.print(f"In the store, {busy}.", soft_wrap=True)
    elif not found:
        console.print(f"Nothing to remove; all {kept:,} objects are needed or young.")
    if found:
        last = "Removed." if removed else "Nothing was removed; the same command with --yes removes this."
        console.print(last, soft_wrap=True)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhd])", text)
    if not found:
        raise ConfigError(f"--min-age {text!r} is no duration; expected a number and s, m, h or d, for example 24h")
    return float(found[1]) * _UNITS[found[2]]


def _memos(home: Path) -> list[Manifest]:
    """The demo's remembered teachers: these manifests lie in the home."""
    return [read_manifest(path) for path in sorted((home / "demo").glob("*/teacher-*.json"))]


def _work_folders(home: Path, since: float) -> Iterator[Path]:
    """Folders of runs in which nothing was written lately; one that goes on writes its progress there."""
    for folder in sorted((home / "work").glob("*")):
        times = [path.lstat().st_mtime for path in (folder, *folder.rglob("*"))]
        if folder.is_dir() and max(times) < since:
            yield folder


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file())
