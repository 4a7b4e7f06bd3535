"""`edgedistill fleet ...`: the edge nodes of a cluster."""

import json
import time
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from edgedistill.errors import EdgeDistillError

WATCH_S = 2.0  # between two looks of --watch
_COLUMNS = ("node", "wave", "assigned", "serves", "state", "reason", "last seen")


@click.group()
@click.option("--release", default="student-edge", show_default=True, help="Name of the chart's release.")
@click.option("--namespace", "-n", default="default", show_default=True)
@click.pass_context
def fleet(context: click.Context, release: str, namespace: str) -> None:
    """The edge nodes of the cluster that KUBECONFIG names."""

    def connect() -> Any:
        from edge.rollout.fleet import Fleet

        return Fleet(release, namespace, through_api_server=True)

    context.obj = connect  # not yet: a command's --help needs no cluster


@fleet.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@click.option("--watch", is_flag=True, help="Go on until Ctrl-C; where there is no terminal, one line a change.")
@click.pass_obj
def status(connect: Callable[[], Any], as_json: bool, watch: bool) -> None:
    """Each node's release and state, and where the rollout stands.

    Exit code: 0 it was shown, whatever it shows; 1 it could not be asked; 2 wrong options.
    """
    from edge.rollout.watch import look

    if as_json and watch:
        raise click.UsageError("--json and --watch do not go together; call --json again and again")
    cluster = connect()
    document = look(cluster).document()
    if as_json:
        click.echo(json.dumps(document, indent=2, sort_keys=True))
    elif watch:
        _watch(lambda: look(cluster).document(), document)
    else:
        console = Console()
        console.print(_table(document))
        console.print(document["sentence"], markup=False, soft_wrap=True)


@fleet.command("wait")
@click.option("--timeout", "timeout_s", type=click.FloatRange(min=0), help="Seconds; else what the waves can take.")
@click.pass_obj
def wait_for_fleet(connect: Callable[[], Any], timeout_s: float | None) -> None:
    """Wait until the newest target is out.

    Exit code: 0 it is out; 1 it was stopped, it is not out in time, or the cluster cannot be asked; 2 wrong options.
    """
    from edge.rollout.watch import wait

    click.echo(wait(connect(), timeout_s=timeout_s))


@fleet.command("stop")
@click.pass_obj
def stop_fleet(connect: Callable[[], Any]) -> None:
    """Stop the rollout that is under way, and send its nodes back.

    Exit code: 0 it is being stopped; 1 there is none to stop, or the cluster cannot be asked.
    """
    from edge.rollout.watch import stop

    click.echo(stop(connect()))


def _watch(look: Callable[[], dict[str, Any]], document: dict[str, Any]) -> None:
    """Show every change until Ctrl-C. A cluster that does not answer for a while is said, and asked again."""
    console = Console()
    if not console.is_terminal:
        _tell_changes(look, document)
        return
    try:
        with Live(_screen(document, ""), console=console, auto_refresh=False) as live:
            while True:
                time.sleep(WATCH_S)
                document, trouble = _again(look, document)
                live.update(_screen(document, trouble), refresh=True)
    except KeyboardInterrupt:
        return


def _tell_changes(look: Callable[[], dict[str, Any]], document: dict[str, Any]) -> None:
    told: dict[str, str] = {}
    trouble = ""
    try:
        while True:
            lines = {"": trouble or document["sentence"]} | {one["name"]: _line(one) for one in document["nodes"]}
            lines |= {name: f"{name}: is no node of the fleet any more" for name in told if name not in lines}
            for name, line in lines.items():
                if told.get(name) != line:
                    click.echo(f"{time.strftime('%H:%M:%S')} {line}")
            told = lines
            time.sleep(WATCH_S)
            document, trouble = _again(look, document)
    except (KeyboardInterrupt, BrokenPipeError):
        return


def _again(look: Callable[[], dict[str, Any]], before: dict[str, Any]) -> tuple[dict[str, Any], str]:
    try:
        return look(), ""
    except EdgeDistillError as error:
        return before, str(error)


def _screen(document: dict[str, Any], trouble: str) -> Group:
    return Group(_table(document), Text(trouble or document["sentence"]))


def _table(document: dict[str, Any]) -> Table:
    table = Table(*_COLUMNS, box=None, pad_edge=False, header_style="dim")
    for node in document["nodes"]:
        values = [node[key] for key in ("name", "wave", "assigned", "active", "state", "reason")]
        cells = ["" if value is None else str(value) for value in values]
        table.add_row(*(Text(cell, overflow="fold") for cell in [*cells, _age(node["last_seen_s"])]))
    return table


def _line(node: dict[str, Any]) -> str:
    serves = f"serves {node['active']}" if node["active"] is not None else "serves nothing"
    told = f", told {node['assigned']}" if node["assigned"] is not None else ""
    reason = f" ({node['reason']})" if node["reason"] else ""
    return f"{node['name']}: {node['state']}, {serves}{told}{reason}"


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "never"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds // size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago" if seconds >= 1 else "now"
