"""A new repository of signed releases: its keys and its first metadata."""

from collections.abc import Callable, Mapping
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, Root, Signed, Snapshot, Targets, Timestamp

from edgedistill.errors import SigningError
from edgedistill.signing_keys import KEY_FILES, has_key, key_files, make_key, read_key
from edgedistill.signing_metadata import METADATA, TIMESTAMP, expiry, meta_file, read_head, signed
from edgedistill.storage import ObjectStore

_PATHS = ["*/*", "*/*/*", "*/*/*/*"]  # TUF's `*` does not cross a slash


def init_repository(store: ObjectStore, keys: Path, *, root_keys: int = 1, root_threshold: int = 1) -> None:
    """Make the keys that are missing and the first metadata. A repository that is there already is left alone.

    Args:
        store: for the repository.
        keys: folder of the keys.
        root_keys: how many root keys there are.
        root_threshold: how many of them must sign a new root.

    Raises:
        SigningError: the repository was made with other keys, or no such threshold is possible.
    """
    if store.exists(TIMESTAMP):
        head = read_head(store)
        for role in KEY_FILES:  # offline keys need not be here, but one that is here must fit
            if key_files(keys, role) and not has_key(keys, role, head.keyids(role)):
                raise SigningError(
                    f"the {role} key in {keys} is not this repository's; give its own with --keys FOLDER"
                )
        if not any(key_files(keys, role) for role in KEY_FILES):
            raise SigningError(f"{keys} holds no key of this repository; give the folder that does with --keys FOLDER")
        return
    if not 1 <= root_threshold <= root_keys <= 9:
        raise SigningError(
            f"{root_threshold} of {root_keys} root keys is not possible; expected 1 to 9, for example 2 of 3"
        )
    for role in KEY_FILES:
        make_key(keys / KEY_FILES[role])
    for number in range(2, root_keys + 1):
        make_key((keys / KEY_FILES["root"]).with_name(f"root-{number}.pem"))
    own = {role: [read_key(path) for path in key_files(keys, role)] for role in KEY_FILES}
    _put_first(store, "1.root.json", lambda: _first_root(own, root_threshold), own["root"])
    targets = _put_first(store, "1.targets.json", lambda: _first_targets(own["releases"][0]), own["targets"])
    releases = _put_first(store, "1.releases.json", lambda: Targets(expires=expiry("releases")), own["releases"])
    meta = {"targets.json": meta_file(1, targets), "releases.json": meta_file(1, releases)}
    snapshot = _put_first(
        store, "1.snapshot.json", lambda: Snapshot(expires=expiry("snapshot"), meta=meta), own["snapshot"]
    )
    timestamp = Timestamp(expires=expiry("timestamp"), snapshot_meta=meta_file(1, snapshot))
    store.swap(TIMESTAMP, signed(timestamp, own["timestamp"]), expected=None)


def _first_root(own: Mapping[str, list[CryptoSigner]], threshold: int) -> Root:
    root = Root(expires=expiry("root"), consistent_snapshot=True)
    for role in ("root", "targets", "snapshot", "timestamp"):
        for signer in own[role]:
            root.add_key(signer.public_key, role)
    root.roles["root"].threshold = threshold
    return root


def _first_targets(releases: CryptoSigner) -> Targets:
    key = releases.public_key
    role = DelegatedRole("releases", [key.keyid], threshold=1, terminating=True, paths=_PATHS)
    return Targets(expires=expiry("targets"), delegations=Delegations({key.keyid: key}, {"releases": role}))


def _put_first(store: ObjectStore, name: str, make: Callable[[], Signed], own: list[CryptoSigner]) -> bytes:
    """Keep what an earlier, killed init wrote."""
    key = f"{METADATA}/{name}"
    if not store.exists(key):
        store.put(key, signed(make(), own))
    return store.get(key)
