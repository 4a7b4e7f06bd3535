"""The `edgedistill` command. Each sub-command imports what it needs when it runs, so `--help` is quick."""

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from edgedistill import __version__, runs
from edgedistill.config import PRESETS, run_config
from edgedistill.errors import EdgeDistillError
from edgedistill.storage import open_store

HOME = Path(".edgedistill")
_home = click.option(
    "--home", type=click.Path(path_type=Path), default=HOME, show_default=True, help="Folder of the embedded runs."
)


def main() -> None:
    """Entry point: one sentence and a non-zero exit for every error that is ours."""
    try:
        cli(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit("edgedistill: interrupted; the same command goes on from what is complete")
    except EdgeDistillError as error:
        sys.exit(f"edgedistill: {error}")


@click.group()
@click.version_option(__version__)
def cli() -> None:
    """Distil a big image classifier into a small signed int8 student."""


@cli.command()
@click.option("--data", type=click.Path(path_type=Path), help="Image folder, one sub-folder a class; else the demo.")
@click.option("--teacher", help="ONNX file of the teacher; else the demo's, trained on somebody else's images.")
@click.option("--preset", default="cpu", show_default=True, help=f"One of {', '.join(PRESETS)}.")
@click.option("--set", "overrides", multiple=True, metavar="STEP.FIELD=VALUE", help="One setting, repeatable.")
@_home
def run(data: Path | None, teacher: str | None, preset: str, overrides: tuple[str, ...], home: Path) -> None:
    """Run the pipeline: images and a teacher in, a signed int8 student out."""
    from edgedistill.demo import DEMO_SHARE
    from edgedistill.errors import ConfigError
    from kfp_pipelines.embedded import Home, ask_local_node, run_embedded

    config = run_config(preset, overrides)
    if data and not teacher:
        raise ConfigError("--data needs a teacher of the same classes; give one with --teacher FILE.onnx")
    place = Home(home)
    with StepBars() as bars:
        record = run_embedded(
            place,
            config,
            data=data,
            teacher=teacher,
            demo_share=DEMO_SHARE.get(preset, 1.0),
            on_event=bars.show,
        )
    answer = ask_local_node(place, record)
    console = Console()
    console.print(results_table(record))
    expected = f", its label is {answer.expected!r}" if answer.expected else ""
    console.print(f"A local node serves release {answer.version}: {answer.source} is {answer.label!r}{expected}")
    console.print(f"Report: {Path(place.store) / 'runs' / record['run_id'] / 'report.html'}", soft_wrap=True)


@cli.group("runs")
def runs_group() -> None:
    """The history of runs."""


@runs_group.command("list")
@_home
def list_runs(home: Path) -> None:
    """All runs, oldest first."""
    store = open_store(home / "store")
    table = Table(Column("run", no_wrap=True), Column("finished", no_wrap=True), "release", "int8 top-1", "gap closed")
    for run_id in runs.list_runs(store):
        record = runs.read_record(store, run_id)
        release = record["release"]
        table.add_row(
            run_id,
            record["finished"],
            f"{release['name']} {release['version'] or 'none'}",
            _percent(record["metrics"]["student_int8"]["top1"]),
            _percent(record["kd_gap_closed"]),
        )
    Console().print(table)


@runs_group.command("show")
@click.argument("run_id", default="latest")
@click.option("--json", "as_json", is_flag=True, help="The whole record.")
@_home
def show_run(run_id: str, as_json: bool, home: Path) -> None:
    """One run; `latest` is the newest."""
    record = runs.read_record(open_store(home / "store"), run_id)
    if as_json:
        click.echo(json.dumps(record, indent=2, sort_keys=True))
    else:
        Console().print(results_table(record))


@cli.group()
def release() -> None:
    """The signed releases."""


@release.command("list")
@click.option("--name", default="demo", show_default=True)
@_home
def list_releases(name: str, home: Path) -> None:
    """The signed index of a name, as JSON."""
    from edgedistill import signing

    click.echo(json.dumps(signing.list_releases(open_store(home / "store"), name), indent=2))


@release.command()
@_home
def init(home: Path) -> None:
    """Make the keys and the first metadata of a repository; what is there is left alone."""
    from edgedistill import signing

    signing.init_repository(open_store(home / "store"), home / "keys")


@release.command()
@_home
def refresh(home: Path) -> None:
    """Sign snapshot and timestamp anew, before they expire."""
    from edgedistill import signing

    signing.refresh(open_store(home / "store"), home / "keys")


@release.command()
@click.argument("version", type=int)
@click.option("--name", default="demo", show_default=True)
@_home
def withdraw(version: int, name: str, home: Path) -> None:
    """Take a release back: nobody activates it any more."""
    from edgedistill import signing

    signing.withdraw(open_store(home / "store"), home / "keys", name=name, version=version)


@cli.group()
@click.option("--release", default="student-edge", show_default=True, help="Name of the chart's release.")
@click.option("--namespace", "-n", default="default", show_default=True)
@click.pass_context
def fleet(context: click.Context, release: str, namespace: str) -> None:
    """The edge nodes of the cluster that KUBECONFIG names."""
    from edge.rollout.fleet import Fleet

    context.obj = Fleet(release, namespace, through_api_server=True)


@fleet.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.pass_obj
def status(place: Any, as_json: bool) -> None:
    """Each node's release and state, and where the rollout stands."""
    from edge.rollout.watch import look

    document = look(place).document()
    if as_json:
        click.echo(json.dumps(document, indent=2, sort_keys=True))
        return
    rollout = document["rollout"] or {"state": "unknown", "reason": "the controller has not written yet"}
    table = Table("node", "wave", "assigned", "serves", "state", "refused")
    for node in document["nodes"]:
        table.add_row(*(str(node[key] or "") for key in ("name", "wave", "assigned", "active", "state", "refused")))
    table.caption = f"release {document['target']['version']}: {rollout['state']}: {rollout['reason']}"
    Console().print(table)


@fleet.command("wait")
@click.option("--timeout", "timeout_s", default=1800.0, show_default=True, help="Seconds.")
@click.pass_obj
def wait_for_fleet(place: Any, timeout_s: float) -> None:
    """Wait until the newest target is out; an error when it was stopped."""
    from edge.rollout.watch import wait

    click.echo(wait(place, timeout_s=timeout_s))


@fleet.command("stop")
@click.pass_obj
def stop_fleet(place: Any) -> None:
    """Stop the rollout that is under way, and send its nodes back."""
    from edge.rollout.watch import stop

    click.echo(stop(place))


def results_table(record: dict[str, Any]) -> Table:
    """Teacher, vanilla, student fp32 and int8 on the test split."""
    table = Table("model", "top-1", "agrees with teacher", "size", title=f"run {record['run_id']}")
    for name in runs.MODELS:
        values = record["metrics"][name]
        table.add_row(
            name.replace("_", " "),
            _percent(values["top1"]),
            _percent(values["agreement_with_teacher"]),
            f"{values['size_bytes'] / 1000:,.0f} kB",
        )
    table.caption = f"gap closed {_percent(record['kd_gap_closed'])}, int8 lost {record['int8_net_lost']} images net"
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


def _percent(value: float | None) -> str:
    return "unknown" if value is None else f"{100 * value:.1f} %"
