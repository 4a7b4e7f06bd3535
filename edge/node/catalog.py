"""What the origin offers, as plain data: the serving process reads it and never loads the code that verified it."""

from collections.abc import Mapping
from dataclasses import dataclass

from edgedistill.errors import NodeError


class Unreachable(NodeError):  # noqa: N818 - the state it names
    """The origin does not answer; the node goes on with what it has."""


@dataclass(frozen=True)
class Catalog:
    """What the origin's signed index says, after a successful refresh."""

    latest: int
    minimum_version: int
    releases: Mapping[int, str]  # version -> digest
    versions: Mapping[str, int]  # of the TUF roles
