"""`edgedistill fleet ...`: the edge nodes of a cluster."""

import json
from collections.abc import Callable
from typing import Any

import click
from rich.console import Console
from rich.table import Table


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
@click.pass_obj
def status(connect: Callable[[], Any], as_json: bool) -> None:
    """Each node's release and state, and where the rollout stands."""
    from edge.rollout.watch import look

    document = look(connect()).document()
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
def wait_for_fleet(connect: Callable[[], Any], timeout_s: float) -> None:
    """Wait until the newest target is out; an error when it was stopped."""
    from edge.rollout.watch import wait

    click.echo(wait(connect(), timeout_s=timeout_s))


@fleet.command("stop")
@click.pass_obj
def stop_fleet(connect: Callable[[], Any]) -> None:
    """Stop the rollout that is under way, and send its nodes back."""
    from edge.rollout.watch import stop

    click.echo(stop(connect()))
