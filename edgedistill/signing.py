"""The signed repository of releases: The Update Framework (TUF), by python-tuf.

    releases/metadata/   N.root.json N.targets.json N.releases.json N.snapshot.json timestamp.json
    releases/targets/    <name>/index.json and <name>/<version>/<bundle file>, hash-prefixed

root and targets are offline keys; targets delegates every path to `releases`, whose key only a publisher reads;
snapshot and timestamp are online and expire soon. timestamp.json moves by compare-and-swap: that swap is the publish,
everything before it is invisible to a node, so a publisher may die anywhere.
"""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tuf.api.metadata import MetaFile, TargetFile, Targets

from edgedistill.bundle import MANIFEST, read_bundle
from edgedistill.errors import SigningError
from edgedistill.signing_init import init_repository
from edgedistill.signing_keys import has_key, signers
from edgedistill.signing_metadata import (
    LIFETIME,
    METADATA,
    TARGETS,
    TIMESTAMP,
    Head,
    advance,
    expiry,
    put_metadata,
    read_head,
    root_bytes,
    signed,
)
from edgedistill.storage import ObjectStore, digest, pretty_json

__all__ = ["METADATA", "TARGETS", "TIMESTAMP", "init_repository", "root_bytes"]


def publish(store: ObjectStore, keys: Path, folder: Path) -> int:
    """Publish a bundle as TUF targets and give its version. The same bundle again is a no-op.

    Raises:
        SigningError: no repository, a missing key, or a version that does not rise.
        SwapConflict: somebody else published meanwhile; nothing of this is visible.
        RefusedRelease: the bundle is not whole.
    """
    manifest = read_bundle(folder)
    head = read_head(store)
    index = _index(store, head, manifest.name)
    version = str(manifest.version)
    if index["releases"].get(version) == manifest.digest:
        return manifest.version
    if manifest.version <= index["latest"]:
        raise SigningError(
            f"version {version} of {manifest.name!r} does not rise above {index['latest']}; build it anew"
        )
    targets = {}
    for file in (*manifest.files, MANIFEST):
        path = f"{manifest.name}/{version}/{file}"
        targets[path] = _put_target(store, path, (folder / file).read_bytes())
    index = index | {"latest": manifest.version, "releases": index["releases"] | {version: manifest.digest}}
    _commit(store, keys, head, targets, index)
    return manifest.version


def withdraw(
    store: ObjectStore,
    keys: Path,
    *,
    name: str,
    version: int | None = None,
    minimum: int | None = None,
    leave_none: bool = False,
) -> dict[str, Any]:
    """Take a release back, or raise the signed minimum: nodes that serve it go on, nobody activates it any more.

    Args:
        store: that holds the repository.
        keys: folder with the keys of releases, snapshot and timestamp.
        name: of the releases.
        version: that is taken back.
        minimum: no release below is activated any more; it only rises.
        leave_none: allow that no release is left that a node may activate.

    Returns:
        The new index.

    Raises:
        SigningError: no such release, a minimum that falls, or no release would be left.
    """
    head = read_head(store)
    index = _index(store, head, name)
    if version is not None:
        if str(version) not in index["releases"]:
            raise SigningError(f"no release {version} of {name!r}; see: edgedistill release list")
        kept = {v: d for v, d in index["releases"].items() if v != str(version)}
        index = index | {"releases": kept, "withdrawn": [*index["withdrawn"], version]}
    if minimum is not None:
        if minimum < index["minimum_version"]:
            raise SigningError(f"minimum {minimum} is below the signed {index['minimum_version']}; it only rises")
        index = index | {"minimum_version": minimum}
    if not leave_none and not any(int(v) >= index["minimum_version"] for v in index["releases"]):
        raise SigningError(
            f"no release of {name!r} would be left: nodes go on with what they serve, and a new node has nothing to"
            " serve; publish another first, or say --leave-none"
        )
    _commit(store, keys, head, {}, index)
    return index


def refresh(store: ObjectStore, keys: Path) -> list[str]:
    """Sign snapshot and timestamp anew, and what else expires within a third of its lifetime and has its key here.

    Needs the online keys.

    Returns:
        What was signed, and what could not be, as sentences.

    Raises:
        SigningError: an online key is missing or of another repository.
    """
    head, meta, told = read_head(store), {}, []
    due = [role for role, expires in head.expires().items() if expires - datetime.now(UTC) < LIFETIME[role] / 3]
    for role in ("releases", "targets", "root"):
        if role not in due:
            continue
        if not has_key(keys, role, head.keyids(role), head.threshold(role)):
            told.append(
                f"{role} expires on {head.expires()[role]:%Y-%m-%d} and its key is not in {keys}: run this where it is,"
                " with --keys FOLDER; after that day nodes activate nothing new"
            )
            continue
        if role == "root":
            _sign_root_again(store, keys, head)
        else:
            meta[f"{role}.json"] = _sign_again(store, keys, head, role)
        told.append(f"{role} is signed until {expiry(role):%Y-%m-%d}")
    advance(store, keys, head, head.snapshot.signed.meta | meta)
    told.append(
        f"snapshot is signed until {expiry('snapshot'):%Y-%m-%d}, timestamp until {expiry('timestamp'):%Y-%m-%d}"
    )
    return told


def list_releases(store: ObjectStore, name: str) -> dict[str, Any]:
    """The index: name, latest, minimum_version, releases (version -> digest), withdrawn."""
    return _index(store, read_head(store), name)


def list_roles(store: ObjectStore) -> dict[str, dict[str, Any]]:
    """Role -> version, expires (ISO 8601), keyids, threshold."""
    head = read_head(store)
    return {
        role: {
            "version": getattr(head, role).signed.version,
            "expires": expires.isoformat(),
            "keyids": head.keyids(role),
            "threshold": head.threshold(role),
        }
        for role, expires in head.expires().items()
    }


def only_name(store: ObjectStore) -> str:
    """The name of the releases, where there is one name.

    Raises:
        SigningError: no release, or several names.
    """
    listed = read_head(store).releases.signed.targets
    names = sorted(path.removesuffix("/index.json") for path in listed if path.endswith("/index.json"))
    if len(names) != 1:
        found = f"releases of {', '.join(names)}; choose one with --name" if names else "no release; run the pipeline"
        raise SigningError(f"store {store.uri} holds {found}")
    return names[0]


def next_version(store: ObjectStore, name: str) -> int:
    """One more than the newest release of the name."""
    if not store.exists(TIMESTAMP):
        return 1
    return int(list_releases(store, name)["latest"]) + 1


def _commit(
    store: ObjectStore, keys: Path, head: Head, targets: Mapping[str, TargetFile], index: dict[str, Any]
) -> None:
    path = f"{index['name']}/index.json"
    listed = head.releases.signed.targets | dict(targets) | {path: _put_target(store, path, pretty_json(index))}
    own = signers(keys, "releases", head.keyids("releases"))
    meta = put_metadata(store, head, "releases", Targets(targets=listed), own)
    advance(store, keys, head, head.snapshot.signed.meta | {"releases.json": meta})


def _sign_again(store: ObjectStore, keys: Path, head: Head, role: str) -> MetaFile:
    own = signers(keys, role, head.keyids(role))
    return put_metadata(store, head, role, getattr(head, role).signed, own)


def _sign_root_again(store: ObjectStore, keys: Path, head: Head) -> None:
    root = head.root.signed
    own = signers(keys, "root", head.keyids("root"), head.threshold("root"))
    root.version, root.expires = root.version + 1, expiry("root")
    store.put(f"{METADATA}/{root.version}.root.json", signed(root, own))


def _index(store: ObjectStore, head: Head, name: str) -> dict[str, Any]:
    path = f"{name}/index.json"
    target = head.releases.signed.targets.get(path)
    if target is None:
        return {"name": name, "latest": 0, "minimum_version": 0, "releases": {}, "withdrawn": []}
    data = store.get(_target_key(path, target))
    if digest(data) != target.hashes["sha256"]:
        raise SigningError(f"{_target_key(path, target)} in the store is not what was signed; restore it from a copy")
    index: dict[str, Any] = json.loads(data)
    return index


def _put_target(store: ObjectStore, path: str, data: bytes) -> TargetFile:
    target = TargetFile.from_data(path, data, ["sha256"])
    store.put(_target_key(path, target), data)
    return target


def _target_key(path: str, target: TargetFile) -> str:
    folder, _, name = path.rpartition("/")
    return f"{TARGETS}/{folder}/{target.hashes['sha256']}.{name}"
