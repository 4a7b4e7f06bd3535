"""What a node does next: a pure function of what it sees."""

from collections.abc import Mapping
from dataclasses import dataclass

from edge.node.catalog import Catalog
from edge.node.state import Release


@dataclass(frozen=True)
class Observation:
    """One look at the world."""

    name: str  # of the releases
    desired: int | None  # version that the operator wants; None: nothing was said yet
    follow_latest: bool  # no version file: the newest release is wanted
    active: Release | None
    catalog: Catalog | None  # None: the origin does not answer
    refused: Mapping[tuple[int, str], str]  # (version, digest) in quarantine -> slug of the reason


@dataclass(frozen=True)
class Keep:
    """Go on as it is; `state` is shown with its reason."""

    state: str
    reason: str
    refused: str = ""  # slug, when the wanted release is in quarantine


@dataclass(frozen=True)
class Refuse:
    """The desired release cannot be had; remember why."""

    version: int
    digest: str
    reason: str
    message: str


@dataclass(frozen=True)
class Activate:
    """Fetch, verify, try and switch to this release."""

    release: Release


Action = Keep | Refuse | Activate


def decide(seen: Observation) -> Action:
    """The next action. A node that serves goes on serving whatever else is wrong."""
    idle = "serving" if seen.active else "waiting"
    wanted = seen.desired
    if wanted is None and seen.follow_latest and seen.catalog:
        wanted = max(seen.catalog.releases, default=None)
    if wanted is None:
        return Keep(idle, "no version is assigned to this node yet" if not seen.follow_latest else "no release yet")
    if seen.active and seen.active.version == wanted:
        return Keep("serving", "")
    if seen.catalog is None:
        return Keep(idle, f"release {wanted} is wanted; the origin does not answer")
    digest = seen.catalog.releases.get(wanted)
    for (version, known), reason in seen.refused.items():
        if version == wanted and digest in (None, known):
            return Keep(idle, f"release {wanted} is in quarantine: {reason}", refused=reason)
    if digest is None:
        message = f"release {wanted} of {seen.name!r} is not listed by the origin"
        return Refuse(wanted, "", "not_listed", message)
    if wanted < seen.catalog.minimum_version:
        message = f"release {wanted} is below the signed minimum {seen.catalog.minimum_version}"
        return Refuse(wanted, digest, "below_minimum", message)
    return Activate(Release(seen.name, wanted, digest))
