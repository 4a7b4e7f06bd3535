"""The signed repository of releases: The Update Framework (TUF), by python-tuf.

    releases/metadata/   N.root.json N.targets.json N.releases.json N.snapshot.json timestamp.json
    releases/targets/    <name>/index.json and <name>/<version>/<bundle file>, hash-prefixed

root and targets are offline keys; targets delegates every path to `releases`, whose key only a publisher reads;
snapshot and timestamp are online and expire soon. timestamp.json moves by compare-and-swap: that swap is the publish,
everything before it is invisible to a node, so a publisher may die anywhere.
"""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Signed,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from edgedistill.bundle import MANIFEST, read_bundle
from edgedistill.errors import SigningError
from edgedistill.storage import ObjectStore, pretty_json

METADATA, TARGETS = "releases/metadata", "releases/targets"
TIMESTAMP = f"{METADATA}/timestamp.json"
LIFETIME = {
    "root": timedelta(days=365),
    "targets": timedelta(days=365),
    "releases": timedelta(days=90),
    "snapshot": timedelta(days=30),
    "timestamp": timedelta(days=7),
}
KEY_FILES = {  # role -> file in the keys folder; offline/ belongs on a stick in a drawer
    "root": "offline/root.pem",
    "targets": "offline/targets.pem",
    "releases": "releases.pem",
    "snapshot": "online/snapshot.pem",
    "timestamp": "online/timestamp.pem",
}
_PATHS = ["*/*", "*/*/*", "*/*/*/*"]  # TUF's `*` does not cross a slash


@dataclass(frozen=True)
class _Head:
    """What the current timestamp.json leads to."""

    raw: bytes  # of timestamp.json, for the compare-and-swap
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    releases: Metadata[Targets]


def init_repository(store: ObjectStore, keys: Path) -> None:
    """Make the keys that are missing and the first metadata. A repository that is there already is left alone.

    Raises:
        SigningError: the repository was made with other keys.
    """
    if not store.exists(TIMESTAMP):
        for role in KEY_FILES:
            _make_key(keys / KEY_FILES[role])
    signers = {role: _signer(keys, role) for role in KEY_FILES}
    if store.exists(TIMESTAMP):
        root = Metadata[Root].from_bytes(root_bytes(store))
        if signers["root"].public_key.keyid not in root.signed.roles["root"].keyids:
            raise SigningError(f"the keys in {keys} did not make this repository; give its own with --keys FOLDER")
        return
    _put_first(store, "1.root.json", lambda: _first_root(signers), signers["root"])
    _put_first(store, "1.targets.json", lambda: _first_targets(signers["releases"]), signers["targets"])
    _put_first(store, "1.releases.json", lambda: Targets(expires=_expiry("releases")), signers["releases"])
    meta = {"targets.json": MetaFile(1), "releases.json": MetaFile(1)}
    _put_first(store, "1.snapshot.json", lambda: Snapshot(expires=_expiry("snapshot"), meta=meta), signers["snapshot"])
    timestamp = Timestamp(expires=_expiry("timestamp"), snapshot_meta=MetaFile(1))
    store.swap(TIMESTAMP, _signed(timestamp, signers["timestamp"]), expected=None)


def publish(store: ObjectStore, keys: Path, folder: Path) -> int:
    """Publish a bundle as TUF targets and give its version. The same bundle again is a no-op.

    Raises:
        SigningError: no repository, a missing key, or a version that does not rise.
        SwapConflict: somebody else published meanwhile; nothing of this is visible.
        RefusedRelease: the bundle is not whole.
    """
    manifest = read_bundle(folder)
    head = _head(store)
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


def withdraw(store: ObjectStore, keys: Path, *, name: str, version: int) -> None:
    """Take a release back: nodes that serve it go on, nobody activates it any more.

    Raises:
        SigningError: no such release.
    """
    head = _head(store)
    index = _index(store, head, name)
    if str(version) not in index["releases"]:
        raise SigningError(f"no release {version} of {name!r}; see: edgedistill release list")
    kept = {v: d for v, d in index["releases"].items() if v != str(version)}
    _commit(store, keys, head, {}, index | {"releases": kept, "withdrawn": [*index["withdrawn"], version]})


def refresh(store: ObjectStore, keys: Path) -> None:
    """Sign snapshot and timestamp anew, before they expire. Needs the online keys only."""
    head = _head(store)
    _advance(store, keys, head, head.snapshot.signed.meta)


def list_releases(store: ObjectStore, name: str) -> dict[str, Any]:
    """The index: name, latest, minimum_version, releases (version -> digest), withdrawn."""
    return _index(store, _head(store), name)


def only_name(store: ObjectStore) -> str:
    """The name of the releases, where there is one name.

    Raises:
        SigningError: no release, or several names.
    """
    listed = _head(store).releases.signed.targets
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


def root_bytes(store: ObjectStore) -> bytes:
    """The first root, which an operator gives to each node; it is never fetched.

    Raises:
        SigningError: no repository.
    """
    if not store.exists(f"{METADATA}/1.root.json"):
        raise SigningError(f"store {store.uri} holds no signed releases; run: edgedistill release init")
    return store.get(f"{METADATA}/1.root.json")


def _commit(
    store: ObjectStore, keys: Path, head: _Head, targets: Mapping[str, TargetFile], index: dict[str, Any]
) -> None:
    path = f"{index['name']}/index.json"
    listed = head.releases.signed.targets | dict(targets) | {path: _put_target(store, path, pretty_json(index))}
    version = _free(store, "releases.json", head.releases.signed.version + 1)
    releases = Targets(version=version, expires=_expiry("releases"), targets=listed)
    store.put(f"{METADATA}/{version}.releases.json", _signed(releases, _signer(keys, "releases")))
    _advance(store, keys, head, head.snapshot.signed.meta | {"releases.json": MetaFile(version)})


def _advance(store: ObjectStore, keys: Path, head: _Head, meta: dict[str, MetaFile]) -> None:
    """A new snapshot, then the swap of timestamp.json, which makes it visible."""
    version = _free(store, "snapshot.json", head.snapshot.signed.version + 1)
    snapshot = Snapshot(version=version, expires=_expiry("snapshot"), meta=meta)
    store.put(f"{METADATA}/{version}.snapshot.json", _signed(snapshot, _signer(keys, "snapshot")))
    timestamp = Timestamp(
        version=head.timestamp.signed.version + 1, expires=_expiry("timestamp"), snapshot_meta=MetaFile(version)
    )
    store.swap(TIMESTAMP, _signed(timestamp, _signer(keys, "timestamp")), expected=head.raw)


def _head(store: ObjectStore) -> _Head:
    root_bytes(store)  # says what to do when there is no repository
    raw = store.get(TIMESTAMP)
    timestamp = Metadata[Timestamp].from_bytes(raw)
    number = timestamp.signed.snapshot_meta.version
    snapshot = Metadata[Snapshot].from_bytes(store.get(f"{METADATA}/{number}.snapshot.json"))
    number = snapshot.signed.meta["releases.json"].version
    releases = Metadata[Targets].from_bytes(store.get(f"{METADATA}/{number}.releases.json"))
    return _Head(raw, timestamp, snapshot, releases)


def _index(store: ObjectStore, head: _Head, name: str) -> dict[str, Any]:
    path = f"{name}/index.json"
    if path not in head.releases.signed.targets:
        return {"name": name, "latest": 0, "minimum_version": 0, "releases": {}, "withdrawn": []}
    index: dict[str, Any] = json.loads(store.get(_target_key(path, head.releases.signed.targets[path])))
    return index


def _put_target(store: ObjectStore, path: str, data: bytes) -> TargetFile:
    target = TargetFile.from_data(path, data, ["sha256"])
    store.put(_target_key(path, target), data)
    return target


def _target_key(path: str, target: TargetFile) -> str:
    folder, _, name = path.rpartition("/")
    return f"{TARGETS}/{folder}/{target.hashes['sha256']}.{name}"


def _free(store: ObjectStore, suffix: str, version: int) -> int:
    """The next number that no dead publisher has used; TUF wants numbers that rise, not numbers without holes."""
    while store.exists(f"{METADATA}/{version}.{suffix}"):
        version += 1
    return version


def _first_root(signers: Mapping[str, CryptoSigner]) -> Root:
    root = Root(expires=_expiry("root"), consistent_snapshot=True)
    for role in ("root", "targets", "snapshot", "timestamp"):
        root.add_key(signers[role].public_key, role)
    return root


def _first_targets(releases: CryptoSigner) -> Targets:
    key = releases.public_key
    role = DelegatedRole("releases", [key.keyid], threshold=1, terminating=True, paths=_PATHS)
    return Targets(expires=_expiry("targets"), delegations=Delegations({key.keyid: key}, {"releases": role}))


def _put_first(store: ObjectStore, name: str, make: Callable[[], Signed], signer: CryptoSigner) -> None:
    """Keep what an earlier, killed init wrote."""
    if not store.exists(f"{METADATA}/{name}"):
        store.put(f"{METADATA}/{name}", _signed(make(), signer))


def _signed(signed: Signed, signer: CryptoSigner) -> bytes:
    metadata: Metadata[Any] = Metadata(signed)
    metadata.sign(signer)
    return metadata.to_bytes(JSONSerializer(compact=False))


def _expiry(role: str) -> datetime:
    return datetime.now(UTC).replace(microsecond=0) + LIFETIME[role]


def _make_key(path: Path) -> None:
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
        handle.write(CryptoSigner.generate_ed25519().private_bytes)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)


def _signer(keys: Path, role: str) -> CryptoSigner:
    path = keys / KEY_FILES[role]
    if not path.is_file():
        raise SigningError(f"no {role} key at {path}; give the folder that holds it with --keys FOLDER")
    try:
        private = load_pem_private_key(path.read_bytes(), None)
        return CryptoSigner(private, SSlibKey.from_crypto(private.public_key()))
    except ValueError as error:
        raise SigningError(f"{path} is no PEM private key; give the folder of the {role} key with --keys") from error
