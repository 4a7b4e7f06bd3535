"""`edgedistill release ...`: the signed releases."""

import json

import click

from edgedistill.place import Place, placed


@click.group()
def release() -> None:
    """The signed releases."""


@release.command("list")
@click.option("--name", default="demo", show_default=True)
@placed
def list_releases(name: str, place: Place) -> None:
    """The signed index of a name, as JSON."""
    from edgedistill import signing

    click.echo(json.dumps(signing.list_releases(place.open(), name), indent=2))


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
@click.option("--name", default="demo", show_default=True)
@placed
def withdraw(version: int, name: str, place: Place) -> None:
    """Take a release back: nobody activates it any more."""
    from edgedistill import signing

    signing.withdraw(place.open(), place.keys, name=name, version=version)
