"""Another key for a role, in an order that leaves the repository whole at every step.

timestamp, snapshot and targets have their keys from the root, and a new root is visible at once. So first the metadata
is signed by the old and the new key (the swap of timestamp.json), then the root that names the new key is put: before
and after it, and for a node that sees one of the two, every signature fits. `releases` has its key from targets: the
new targets and the newly signed list become visible by one swap. A root is signed by the old and the new root keys.
When the old key is lost, the root must come first: nodes refuse to refresh until the same command has signed the rest.
The key files are renamed last. Killed anywhere, the same command goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Delegations, MetaFile, Root, Targets

from edgedistill.errors import SigningError
from edgedistill.signing_keys import KEY_FILES, key_files, make_key, next_file, read_key, replace_key, signers
from edgedistill.signing_metadata import (
    METADATA,
    Head,
    advance,
    delegated,
    expiry,
    is_current,
    put_metadata,
    read_head,
    signed,
)
from edgedistill.storage import ObjectStore

ONLINE = ("snapshot", "timestamp")


@dataclass(frozen=True)
class Rotated:
    """What a rotation did."""

    role: str
    old: str  # key id
    new: str
    aside: Path | None  # where the old key file is kept; None: it was lost


def rotate_key(store: ObjectStore, keys: Path, role: str, *, lost: bool = False, keyid: str = "") -> Rotated:
    """Give a role another key. The same command again goes on with one that was interrupted.

    Args:
        store: that holds the repository.
        keys: folder with the role's key and those that must sign: the root's (for `releases`: targets') and the
            online keys.
        role: root, targets, releases, snapshot or timestamp.
        lost: the old key is gone; the others must be there.
        keyid: which key, or its beginning, when the role has several.

    Raises:
        SigningError: a key is missing, or which one is meant is not clear.
        SwapConflict: somebody else published meanwhile; nothing of this is visible, run it again.
    """
    if role not in KEY_FILES:
        raise SigningError(f"no role {role!r}; expected one of {', '.join(KEY_FILES)}")
    head = read_head(store, older_roots=True)
    pending = next_file(keys, role)
    is_named = pending.is_file() and read_key(pending).public_key.keyid in head.keyids(role)
    old = _former(store, head, keys, role) if is_named else _replaced(head, keys, role, lost=lost, keyid=keyid)
    if not is_named:
        _check_signers(head, keys, role, lost=lost)
        make_key(pending)
    new = read_key(pending)
    if not is_named:
        _name(store, head, keys, role, old, new, lost=lost)
    _sign_rest(store, keys, role)
    file = next((f for f in key_files(keys, role) if f != pending and read_key(f).public_key.keyid == old), None)
    return Rotated(role, old, new.public_key.keyid, replace_key(keys, role, file))


def _replaced(head: Head, keys: Path, role: str, *, lost: bool, keyid: str) -> str:
    """The key id that goes."""
    here = {read_key(path).public_key.keyid for path in key_files(keys, role)}
    known = [k for k in head.keyids(role) if (k not in here if lost else k in here) and k.startswith(keyid)]
    if len(known) == 1:
        return known[0]
    names = ", ".join(k[:8] for k in head.keyids(role))
    if not known and lost:
        raise SigningError(f"no {role} key is missing in {keys}; without --lost it is replaced: rotate-key {role}")
    if not known:
        raise SigningError(
            f"no {role} key of the repository ({names}) is in {keys}; give its folder with --keys FOLDER, or say --lost"
        )
    raise SigningError(f"{role} has the keys {names}; say which one goes: --keyid {known[0][:8]}")


def _former(store: ObjectStore, head: Head, keys: Path, role: str) -> str:
    """The key id that an interrupted rotation has replaced, which is not named any more: of a file that is here."""
    here = [read_key(path).public_key.keyid for path in key_files(keys, role)]
    return next((k for k in here if k not in head.keyids(role)), "")


def _check_signers(head: Head, keys: Path, role: str, *, lost: bool) -> None:
    """Everything that must sign is here, before anything is made."""
    others = {"releases": ("targets", *ONLINE), "root": ("root",)}.get(role, ("root", *ONLINE))
    for other in others:
        if other == "root":
            _root_signers(head, keys)
        elif not (lost and other == role):
            signers(keys, other, head.keyids(other))


def _root_signers(head: Head, keys: Path) -> list[CryptoSigner]:
    try:
        return signers(keys, "root", head.keyids("root"), head.threshold("root"))
    except SigningError as error:
        raise SigningError(
            f"{error}; {head.threshold('root')} root keys must sign. When they are lost, no node can be told of new"
            " keys: make a new repository and give its 1.root.json to each node (docs/keys.md, lost root key)"
        ) from error


def _name(store: ObjectStore, head: Head, keys: Path, role: str, old: str, new: CryptoSigner, *, lost: bool) -> None:
    """Make the new key the one that the repository names."""
    meta = head.snapshot.signed.meta
    if role == "releases":
        own = signers(keys, "targets", head.keyids("targets"))
        changed = {
            "targets.json": put_metadata(store, head, "targets", _delegating(head, old, new), own),
            "releases.json": put_metadata(store, head, "releases", head.releases.signed, [new]),
        }
        advance(store, keys, head, meta | changed)
        return
    if role != "root" and not lost:
        if role == "targets":
            meta = meta | {"targets.json": _targets_again(store, head, [*signers(keys, role, head.keyids(role)), new])}
        advance(store, keys, head, meta, also={role: new})
    _put_root(store, head, keys, role, old, new)


def _put_root(store: ObjectStore, head: Head, keys: Path, role: str, old: str, new: CryptoSigner) -> None:
    own = _root_signers(head, keys)
    root: Root = head.root.signed
    root.revoke_key(old, role)
    root.add_key(new.public_key, role)
    root.version, root.expires = root.version + 1, expiry("root")
    store.put(f"{METADATA}/{root.version}.root.json", signed(root, [*own, new] if role == "root" else own))


def _sign_rest(store: ObjectStore, keys: Path, role: str) -> None:
    """Sign what does not fit the newest root: the old key was lost, or somebody published between our two steps."""
    head = read_head(store, older_roots=True)
    if is_current(head):
        return
    meta = head.snapshot.signed.meta
    if role == "targets":
        meta = meta | {"targets.json": _targets_again(store, head, signers(keys, role, head.keyids(role)))}
    advance(store, keys, head, meta)


def _targets_again(store: ObjectStore, head: Head, own: Sequence[CryptoSigner]) -> MetaFile:
    delegated(head.targets)  # what a thief of the targets key may have added is not signed again
    return put_metadata(store, head, "targets", head.targets.signed, list(own))


def _delegating(head: Head, old: str, new: CryptoSigner) -> Targets:
    """targets.json with another key for `releases`."""
    role, key = delegated(head.targets), new.public_key
    role.keyids = [key.keyid if k == old else k for k in role.keyids]
    content = head.targets.signed
    content.delegations = Delegations({key.keyid: key}, {"releases": role})
    return content
