"""Where embedded runs keep their things: a home folder, and an object store that is below it unless the user says."""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from edgedistill.storage import ObjectStore, open_store

HOME = Path(".edgedistill")


@dataclass(frozen=True)
class Place:
    """The folder of the embedded runs, and the address of their object store."""

    folder: Path
    address: str | None = None  # of the store; None: a folder below `folder`

    @property
    def store(self) -> str:
        """Fit for open_store, whatever the working directory is."""
        address = self.address or str(self.folder / "store")
        return address if "://" in address else str(Path(address).resolve())

    @property
    def keys(self) -> Path:
        """The folder of the signing keys; never in the store."""
        return (self.folder / "keys").resolve()

    def open(self) -> ObjectStore:
        """The store."""
        return open_store(self.store)


def placed(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--home` and `--store`, and hand them over as one `place`."""

    @click.option(
        "--home", type=click.Path(path_type=Path), default=HOME, show_default=True, help="Folder of the embedded runs."
    )
    @click.option("--store", envvar="EDGEDISTILL_STORE", help="Folder or s3://bucket[/prefix]; else in --home.")
    @functools.wraps(command)
    def with_place(*, home: Path, store: str | None, **arguments: Any) -> Any:
        return command(place=Place(home, store), **arguments)

    return with_place
