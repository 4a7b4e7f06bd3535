"""`edgedistill release ...`: the signed releases."""

import json

import click

from edgedistill.place import Place, placed


@click.group()
def release() -> None:
    """The signed releases."""


@release.command("list")
@click.option("--name", help="Of the releases; where there is one name, that one.")
@placed
def list_releases(name: str | None, place: Place) -> None:
    """The signed index of a name, as JSON."""
    from edgedistill import signing

    store = place.open()
    click.echo(json.dumps(signing.list_releases(store, name or signing.only_name(store)), indent=2))


@release.command()
@placed
def init(place: Place) -> None:
    """Make the keys and the first metadata of a repository; what is there is left alone."""
    from edgedistill import signing

    signing.init_repository(place.open(), place.keys)


@release.command()
@placed
def refresh(place: Place) -> None:
    """Sign snapshot and timestamp anew, before they expire."""
    from edgedistill import signing

    signing.refresh(place.open(), place.keys)


@release.command()
@click.argument("version", type=int)
@click.option("--name", help="Of the releases; where there is one name, that one.")
@placed
def withdraw(version: int, name: str | None, place: Place) -> None:
    """Take a release back: nobody activates it any more."""
    from edgedistill import signing

    store = place.open()
    signing.withdraw(store, place.keys, name=name or signing.only_name(store), version=version)
