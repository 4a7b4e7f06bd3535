"""`edgedistill release ...`: the signed releases and the keys that sign them. docs/keys.md is the runbook."""

import functools
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.table import Table

from edgedistill.place import Place, placed

WARN_DAYS = {"root": 120, "targets": 120, "releases": 30, "snapshot": 10, "timestamp": 3}  # a third of the lifetimes
NEXT = {  # role -> what its keeper does after a rotation
    "timestamp": "copy {file} to where `edgedistill release refresh` runs; nodes follow by themselves",
    "snapshot": "copy {file} to where `edgedistill release refresh` runs; nodes follow by themselves",
    "releases": "copy {file} to where releases are published; if the old key was stolen, look at `edgedistill release"
    " list` for releases that are not yours, withdraw them and raise --minimum above them",
    "targets": "put {file} back on its stick; nodes follow by themselves",
    "root": "put {file} back on its stick; nodes follow by themselves, and 1.root.json stays what new nodes are given",
}


def with_keys(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--keys`, and hand it over as a folder."""

    @click.option("--keys", type=click.Path(path_type=Path), help="Folder of the signing keys; else in --home.")
    @functools.wraps(command)
    def with_folder(*, keys: Path | None, place: Place, **arguments: Any) -> Any:
        return command(keys=keys.resolve() if keys else place.keys, place=place, **arguments)

    return with_folder


@click.group()
def release() -> None:
    """The signed releases."""


@release.command("list")
@click.option("--name", help="Of the releases; where there is one name, that one.")
@click.option("--json", "as_json", is_flag=True, help="The signed index and the roles as JSON.")
@placed
def list_releases(name: str | None, as_json: bool, place: Place) -> None:
    """The releases of a name, and until when each role's signature counts."""
    from edgedistill import signing

    store = place.open()
    index = signing.list_releases(store, name or signing.only_name(store))
    roles = signing.list_roles(store)
    if as_json:
        click.echo(json.dumps(index | {"roles": roles}, indent=2))
        return
    for table in (_releases_table(index), _roles_table(roles)):
        Console().print(table)


@release.command()
@click.option("--root-keys", default=1, show_default=True, help="How many root keys to make.")
@click.option("--root-threshold", default=1, show_default=True, help="How many of them must sign a new root.")
@placed
@with_keys
def init(root_keys: int, root_threshold: int, keys: Path, place: Place) -> None:
    """Make the keys and the first metadata of a repository; what is there is left alone."""
    from edgedistill import signing

    signing.init_repository(place.open(), keys, root_keys=root_keys, root_threshold=root_threshold)
    click.echo(f"The keys are in {keys}. Take {keys / 'offline'} off this machine, with a copy in another place.")


@release.command()
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@placed
@with_keys
def publish(folder: Path, keys: Path, place: Place) -> None:
    """Sign and publish a bundle that is there already, for example a node's releases/DIGEST."""
    from edgedistill import signing

    version = signing.publish(place.open(), keys, folder)
    click.echo(f"Release {version} is published.")


@release.command()
@placed
@with_keys
def refresh(keys: Path, place: Place) -> None:
    """Sign snapshot and timestamp anew, before they expire; and what else expires soon and has its key here."""
    from edgedistill import signing

    for sentence in signing.refresh(place.open(), keys):
        click.echo(sentence)


@release.command()
@click.argument("version", type=int, required=False)
@click.option("--minimum", type=int, help="No release below this version is activated any more; it only rises.")
@click.option("--leave-none", is_flag=True, help="Allow that no release is left that a node may activate.")
@click.option("--name", help="Of the releases; where there is one name, that one.")
@placed
@with_keys
def withdraw(
    version: int | None, minimum: int | None, leave_none: bool, name: str | None, keys: Path, place: Place
) -> None:
    """Take a release back, or raise the minimum: nobody activates it any more; nodes that serve it go on."""
    from edgedistill import signing

    if version is None and minimum is None:
        raise click.UsageError("give the VERSION to take back, or --minimum VERSION, or both")
    store = place.open()
    index = signing.withdraw(
        store,
        keys,
        name=name or signing.only_name(store),
        version=version,
        minimum=minimum,
        leave_none=leave_none,
    )
    left = [v for v in map(int, index["releases"]) if v >= index["minimum_version"]]
    if left:
        click.echo(
            f"The newest release is now {max(left)}. Nodes that serve another go on until they are told to change."
        )
    else:
        click.echo("No release is left. Nodes go on with what they serve; a new node has nothing to serve.")


@release.command("rotate-key")
@click.argument("role", type=click.Choice(["timestamp", "snapshot", "releases", "targets", "root"]))
@click.option("--lost", is_flag=True, help="The old key is gone.")
@click.option("--keyid", default="", help="Which key goes, or the beginning of its id, when the role has several.")
@placed
@with_keys
def rotate_key(role: str, lost: bool, keyid: str, keys: Path, place: Place) -> None:
    """Give a role another key. Interrupted, the same command goes on."""
    from edgedistill.signing_keys import key_files, read_key
    from edgedistill.signing_rotate import rotate_key as rotate

    done = rotate(place.open(), keys, role, lost=lost, keyid=keyid)
    file = next(path for path in key_files(keys, role) if read_key(path).public_key.keyid == done.new)
    click.echo(f"{role} is now signed by {done.new[:8]} ({file}), no longer by {done.old[:8]}.")
    if done.aside:
        click.echo(f"The old key is kept as {done.aside}; nothing needs it any more.")
    click.echo(f"Next: {NEXT[role].format(file=file)}.")


def _releases_table(index: Mapping[str, Any]) -> Table:
    minimum = index["minimum_version"]
    table = Table("release", "digest", "state", title=f"releases of {index['name']}")
    listed = {int(version): value for version, value in index["releases"].items()}
    newest = max((v for v in listed if v >= minimum), default=None)
    for version in sorted({*listed, *index["withdrawn"]}, reverse=True):
        state = "newest" if version == newest else "listed"
        if version not in listed:
            state = "withdrawn"
        elif version < minimum:
            state = "below the minimum"
        table.add_row(str(version), listed.get(version, "")[:12], state)
    table.caption = f"minimum version {minimum}"
    return table


def _roles_table(roles: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table("role", "version", "expires", "", "keys", title="signatures")
    for role, shown in roles.items():
        expires = datetime.fromisoformat(shown["expires"])
        days = (expires - datetime.now(UTC)).days
        note = "expired: nodes activate nothing new" if days < 0 else f"in {days} days"
        if 0 <= days < WARN_DAYS[role]:
            note += ": run `edgedistill release refresh` where its key is"
        keys = ", ".join(keyid[:8] for keyid in shown["keyids"])
        of = f" ({shown['threshold']} of {len(shown['keyids'])})" if len(shown["keyids"]) > 1 else ""
        table.add_row(role, str(shown["version"]), f"{expires:%Y-%m-%d}", note, keys + of)
    return table
