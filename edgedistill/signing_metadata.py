"""The repository's metadata as a publisher reads and writes it. Nothing is signed on top of what was not verified:
who may only write to the store must not get his list of releases signed by the next publish.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, MetaFile, Root, Signed, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edgedistill.errors import SigningError
from edgedistill.signing_keys import signers
from edgedistill.storage import ObjectStore, digest

METADATA, TARGETS = "releases/metadata", "releases/targets"
TIMESTAMP = f"{METADATA}/timestamp.json"
LIFETIME = {
    "root": timedelta(days=365),
    "targets": timedelta(days=365),
    "releases": timedelta(days=90),
    "snapshot": timedelta(days=30),
    "timestamp": timedelta(days=7),
}


@dataclass(frozen=True)
class Head:
    """What the newest root and the current timestamp.json lead to."""

    root: Metadata[Root]
    raw: bytes  # of timestamp.json, for the compare-and-swap
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    releases: Metadata[Targets]

    def keyids(self, role: str) -> list[str]:
        """The keys that may sign for the role."""
        if role == "releases":
            return list(delegated(self.targets).keyids)
        return list(self.root.signed.roles[role].keyids)

    def threshold(self, role: str) -> int:
        """How many of them must."""
        return int(delegated(self.targets).threshold if role == "releases" else self.root.signed.roles[role].threshold)

    def expires(self) -> dict[str, datetime]:
        """Role -> when nodes begin to refuse it."""
        return {role: getattr(self, role).signed.expires for role in LIFETIME}


def delegated(targets: Metadata[Targets]) -> Any:
    """The delegation to `releases`.

    Raises:
        SigningError: targets.json delegates something else.
    """
    roles = targets.signed.delegations.roles if targets.signed.delegations else None
    if not roles or set(roles) != {"releases"} or targets.signed.targets:
        raise SigningError("targets.json does not delegate to `releases` alone; see docs/keys.md, stolen targets key")
    return roles["releases"]


def root_bytes(store: ObjectStore) -> bytes:
    """The first root, which an operator gives to each node; it is never fetched.

    Raises:
        SigningError: no repository.
    """
    if not store.exists(f"{METADATA}/1.root.json"):
        raise SigningError(f"store {store.uri} holds no signed releases; run: edgedistill release init")
    return store.get(f"{METADATA}/1.root.json")


def root_chain(store: ObjectStore) -> list[Metadata[Root]]:
    """Every root, first to newest, each signed by itself and by the one before it.

    Raises:
        SigningError: no repository, or a root that the one before it did not sign.
    """
    chain = [Metadata[Root].from_bytes(root_bytes(store))]
    chain[0].signed.verify_delegate("root", chain[0].signed_bytes, chain[0].signatures)
    while store.exists(key := f"{METADATA}/{chain[-1].signed.version + 1}.root.json"):
        try:
            newer = Metadata[Root].from_bytes(store.get(key))
            chain[-1].signed.verify_delegate("root", newer.signed_bytes, newer.signatures)
            newer.signed.verify_delegate("root", newer.signed_bytes, newer.signatures)
        except RepositoryError as error:
            raise SigningError(
                f"{key} is not signed by the root before it ({error}); remove it from the store"
            ) from error
        chain.append(newer)
    return chain


def read_head(store: ObjectStore, *, older_roots: bool = False) -> Head:
    """The current metadata, verified but for its expiry.

    Args:
        store: that holds the repository.
        older_roots: take signatures that fit an older root as well; only a rotation may, which mends them.

    Raises:
        SigningError: no repository, or metadata that no key of the repository signed.
    """
    chain = root_chain(store)
    roots = list(reversed(chain)) if older_roots else chain[-1:]
    raw = store.get(TIMESTAMP)
    timestamp: Metadata[Timestamp] = _verified(Metadata.from_bytes(raw), "timestamp", roots)
    snapshot: Metadata[Snapshot] = _read(store, timestamp.signed.snapshot_meta, "snapshot", roots)
    targets: Metadata[Targets] = _read(store, snapshot.signed.meta["targets.json"], "targets", roots)
    releases: Metadata[Targets] = _read(store, snapshot.signed.meta["releases.json"], "releases", [targets])
    return Head(chain[-1], raw, timestamp, snapshot, targets, releases)


def is_current(head: Head) -> bool:
    """Whether all is signed by the keys of the newest root."""
    for role in ("timestamp", "snapshot", "targets"):
        try:
            _verified(getattr(head, role), role, [head.root])
        except SigningError:
            return False
    return True


def _read(store: ObjectStore, meta: MetaFile, role: str, delegators: list[Metadata[Any]]) -> Metadata[Any]:
    metadata = _verified(Metadata.from_bytes(store.get(f"{METADATA}/{meta.version}.{role}.json")), role, delegators)
    if metadata.signed.version != meta.version:
        raise SigningError(f"{meta.version}.{role}.json in the store is version {metadata.signed.version}; restore it")
    return metadata


def _verified(metadata: Metadata[Any], role: str, delegators: list[Metadata[Any]]) -> Metadata[Any]:
    """The metadata itself, when one of the delegators' keys signed it."""
    for delegator in delegators:
        try:
            delegator.signed.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
            return metadata
        except (RepositoryError, ValueError):
            continue
    raise SigningError(
        f"{role}.json in the store is not signed by the {role} key that the repository names; if a rotation was"
        f" interrupted, run it again: edgedistill release rotate-key ROLE; else see docs/keys.md"
    )


def signed(content: Signed, own: list[CryptoSigner]) -> bytes:
    """A metadata file with everyone's signature."""
    metadata: Metadata[Any] = Metadata(content)
    for signer in own:
        metadata.sign(signer, append=True)
    return metadata.to_bytes(JSONSerializer(compact=False))


def meta_file(version: int, data: bytes) -> MetaFile:
    """How the metadata above names a file: a node then reads no byte more, and no other bytes."""
    return MetaFile(version, len(data), {"sha256": digest(data)})


def expiry(role: str) -> datetime:
    """When metadata of the role that is signed now expires."""
    return datetime.now(UTC).replace(microsecond=0) + LIFETIME[role]


def free_version(store: ObjectStore, suffix: str, version: int) -> int:
    """The next number that no dead publisher has used; TUF wants numbers that rise, not numbers without holes."""
    while store.exists(f"{METADATA}/{version}.{suffix}"):
        version += 1
    return version


def advance(
    store: ObjectStore,
    keys: Path,
    head: Head,
    meta: dict[str, MetaFile],
    *,
    also: Mapping[str, CryptoSigner] | None = None,
) -> None:
    """A new snapshot, then the swap of timestamp.json, which makes it visible.

    Args:
        store: that holds the repository.
        keys: folder with the online keys.
        head: that it follows.
        meta: what the snapshot names.
        also: role -> a further signer, which a root to come will name.
    """
    extra = {role: [also[role]] if also and role in also else [] for role in ("snapshot", "timestamp")}
    own = {role: signers(keys, role, head.keyids(role)) for role in extra}  # both first: nothing is half done
    version = free_version(store, "snapshot.json", head.snapshot.signed.version + 1)
    snapshot = signed(
        Snapshot(version=version, expires=expiry("snapshot"), meta=meta), own["snapshot"] + extra["snapshot"]
    )
    store.put(f"{METADATA}/{version}.snapshot.json", snapshot)
    timestamp = Timestamp(
        version=head.timestamp.signed.version + 1,
        expires=expiry("timestamp"),
        snapshot_meta=meta_file(version, snapshot),
    )
    store.swap(TIMESTAMP, signed(timestamp, own["timestamp"] + extra["timestamp"]), expected=head.raw)


def put_metadata(store: ObjectStore, head: Head, role: str, content: Targets, own: list[CryptoSigner]) -> MetaFile:
    """Write the next version of targets or releases, which nobody sees yet; gives how the snapshot names it."""
    content.version = free_version(store, f"{role}.json", getattr(head, role).signed.version + 1)
    content.expires = expiry(role)
    data = signed(content, own)
    store.put(f"{METADATA}/{content.version}.{role}.json", data)
    return meta_file(content.version, data)
