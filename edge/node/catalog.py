"""What the origin offers, as plain data: the serving process reads it and never loads the code that verified it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict

from edgedistill.errors import NodeError


class Unreachable(NodeError):  # noqa: N818 - the state it names
    """The origin does not give what is asked; the node goes on with what it has, and asks again.

    `reason` is the event's slug: `unreachable`, `missing_file` or `redirected`.
    """

    def __init__(self, message: str, reason: str = "unreachable") -> None:
        super().__init__(message)
        self.reason = reason


class Seen(TypedDict):
    """The highest version of a TUF role that this node has seen, and the keys that it was signed for.

    It binds as long as the role has these keys: versions that a thief of the old ones made up do not bar a role whose
    keys were changed by a newer, signed root.
    """

    version: int
    keyids: list[str]  # sorted; of the root: the digest of the operator's first one, whose word all others rest on


@dataclass(frozen=True)
class Catalog:
    """What the origin's signed index says, after a successful refresh."""

    latest: int
    minimum_version: int
    releases: Mapping[int, str]  # version -> digest
    highest: Mapping[str, Seen]  # TUF role -> what is to be remembered, this refresh and all before it
