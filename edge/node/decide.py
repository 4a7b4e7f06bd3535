"""What a node does next: a pure function of what it sees."""

from collections.abc import Mapping
from dataclasses import dataclass

from edge.node.catalog import Catalog
from edge.node.state import Release

# What the origin can mend: its signed index, or the bytes that it sends. All other refusals hold for the digest.
PASSING = ("below_minimum", "wrong_digest")


@dataclass(frozen=True)
class Trouble:
    """The origin did not answer, or not with what can be believed."""

    reason: str  # slug
    message: str
    is_refusal: bool  # it answered, and that was refused


@dataclass(frozen=True)
class Observation:
    """One look at the world."""

    name: str  # of the releases
    desired: int | None  # version that the operator wants; None: nothing was said yet
    follow_latest: bool  # no version file: the newest release is wanted
    active: Release | None
    origin: Catalog | Trouble | None  # None: nothing is known to have changed since the last look
    refused: Mapping[tuple[int, str], str]  # (version, digest) in quarantine -> slug of the reason; oldest first


@dataclass(frozen=True)
class Wait:
    """Nothing is new: go on, and show what was shown."""


@dataclass(frozen=True)
class Keep:
    """Go on as it is; `state` is shown with its reason."""

    state: str
    reason: str
    refused: str = ""  # slug, when the wanted release is in quarantine, as far as is known


@dataclass(frozen=True)
class Refuse:
    """The desired release cannot be had; remember why."""

    version: int  # 0: of no certain release
    digest: str  # empty: of no certain bytes
    reason: str
    message: str


@dataclass(frozen=True)
class Activate:
    """Fetch, verify, try and switch to this release."""

    release: Release


Action = Wait | Keep | Refuse | Activate


def decide(seen: Observation) -> Action:
    """The next action. A node that serves goes on serving whatever else is wrong."""
    idle = "serving" if seen.active else "waiting"
    if seen.desired is None and not seen.follow_latest:
        return Keep(idle, "no version is assigned to this node yet")
    if seen.active and seen.active.version == seen.desired:
        return Keep("serving", "")
    if seen.origin is None:
        return Wait()
    if isinstance(seen.origin, Trouble):
        wanted = f"release {seen.desired}" if seen.desired else "the newest release"
        if seen.origin.is_refusal:
            return Refuse(seen.desired or 0, "", seen.origin.reason, seen.origin.message)
        return Keep(idle, f"{wanted} is wanted; {seen.origin.message}", refused=_known_refusal(seen))
    if seen.desired is None:
        return _newest(seen, seen.origin, idle)
    return _desired(seen, seen.origin, seen.desired, idle)


def _known_refusal(seen: Observation) -> str:
    """Why the wanted version was refused, as far as that holds without the origin's word: the last of its digests."""
    reasons = [
        reason
        for (version, digest), reason in seen.refused.items()
        if version == seen.desired and digest and reason not in PASSING
    ]
    return reasons[-1] if reasons else ""


def _desired(seen: Observation, catalog: Catalog, wanted: int, idle: str) -> Action:
    digest = catalog.releases.get(wanted, "")
    if not digest:
        message = f"release {wanted} of {seen.name!r} is not listed by the origin"
        return Refuse(wanted, "", "not_listed", message)
    reason = seen.refused.get((wanted, digest), "")
    if wanted < catalog.minimum_version:
        message = f"release {wanted} is below the signed minimum {catalog.minimum_version}"
        return Refuse(wanted, digest, "below_minimum", message)
    if reason and reason not in PASSING:
        return Keep(idle, f"release {wanted} is in quarantine: {reason}", refused=reason)
    return Activate(Release(seen.name, wanted, digest))


def _newest(seen: Observation, catalog: Catalog, idle: str) -> Action:
    """The newest release that may run; one in quarantine is passed over, but nothing newer is left for it."""
    allowed = sorted((v for v in catalog.releases if v >= catalog.minimum_version), reverse=True)
    if not allowed:
        return Keep(idle, "no release yet")
    newer = [version for version in allowed if not (seen.active and version <= seen.active.version)]
    slugs = {version: seen.refused.get((version, catalog.releases[version]), "") for version in newer}
    # An older one that was not tried comes before a newer one whose copy at the origin may have been mended.
    for version in sorted(newer, key=lambda one: slugs[one] != ""):
        if not slugs[version] or slugs[version] in PASSING:
            return Activate(Release(seen.name, version, catalog.releases[version]))
    if seen.active and (listed := catalog.releases.get(seen.active.version)) not in (None, seen.active.digest):
        message = f"release {seen.active.version} is listed with other bytes than this node holds: {str(listed)[:12]}"
        return Refuse(seen.active.version, str(listed), "changed_release", message)
    refused = slugs[newer[0]] if newer else ""
    return Keep(idle, f"release {newer[0]} is in quarantine: {refused}" if newer else "", refused=refused)
