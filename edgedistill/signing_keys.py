"""The signing keys: PEM files in one folder, chosen by whether the repository's newest root knows them.

    offline/root.pem [root-2.pem ...] offline/targets.pem     on a stick in a drawer; a link to the stick will do
    releases.pem                                              only where releases are published
    online/snapshot.pem online/timestamp.pem                  where `edgedistill release refresh` runs

A rotation makes `<role>.next.pem` and renames it last, so whichever of the two the repository knows is used, also
after a kill. What was replaced is kept aside as `revoked-<date>-<role>.pem`.
"""

import os
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner, SSlibKey

from edgedistill.errors import SigningError

KEY_FILES = {  # role -> file in the keys folder
    "root": "offline/root.pem",
    "targets": "offline/targets.pem",
    "releases": "releases.pem",
    "snapshot": "online/snapshot.pem",
    "timestamp": "online/timestamp.pem",
}


def make_key(path: Path) -> None:
    """An Ed25519 key that only its owner may read; one that is there is left alone."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as handle:
        handle.write(CryptoSigner.generate_ed25519().private_bytes)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.replace(path)
    _sync(path.parent)


def key_files(keys: Path, role: str) -> list[Path]:
    """The role's key files: its own, further ones (`root-2.pem`), and the next one of a rotation under way."""
    own = keys / KEY_FILES[role]
    further = sorted(own.parent.glob(f"{own.stem}-*.pem"))
    return [path for path in (own, *further, next_file(keys, role)) if path.is_file()]


def next_file(keys: Path, role: str) -> Path:
    """Where a rotation puts the role's next key until it is the key."""
    return (keys / KEY_FILES[role]).with_suffix(".next.pem")


def read_key(path: Path) -> CryptoSigner:
    """A signer from a PEM file.

    Raises:
        SigningError: it is no private key.
    """
    try:
        private = load_pem_private_key(path.read_bytes(), None)
        return CryptoSigner(private, SSlibKey.from_crypto(private.public_key()))
    except (ValueError, TypeError, OSError) as error:
        raise SigningError(f"{path} is no PEM private key; give the folder of the keys with --keys FOLDER") from error


def signers(keys: Path, role: str, allowed: Collection[str], threshold: int = 1) -> list[CryptoSigner]:
    """Signers of the role that the repository knows.

    Args:
        keys: the folder.
        role: of the five.
        allowed: key ids that the repository's metadata names for the role.
        threshold: how many are needed.

    Raises:
        SigningError: no key file, or none that fits, or too few.
    """
    files = key_files(keys, role)
    if not files:
        raise SigningError(
            f"no {role} key at {keys / KEY_FILES[role]}; give the folder that holds it with --keys FOLDER"
        )
    fitting = {s.public_key.keyid: s for s in map(read_key, files) if s.public_key.keyid in allowed}
    if len(fitting) < threshold:
        known = ", ".join(keyid[:8] for keyid in sorted(allowed))
        raise SigningError(
            f"{len(fitting)} of {len(files)} {role} key files in {files[0].parent} fit the repository, expected"
            f" {threshold}: it knows {known}; did somebody rotate the key? Give the folder of the right one with --keys"
        )
    return list(fitting.values())


def has_key(keys: Path, role: str, allowed: Collection[str], threshold: int = 1) -> bool:
    """Whether `signers` would give enough."""
    try:
        return bool(signers(keys, role, allowed, threshold))
    except SigningError:
        return False


def replace_key(keys: Path, role: str, old: Path | None) -> Path | None:
    """The next key becomes the role's key; the old file, if any, is kept aside under the name that is given back."""
    own = keys / KEY_FILES[role]
    aside = None
    if old is not None:
        aside = _free(old, f"revoked-{datetime.now(UTC):%Y-%m-%d}-{old.stem}")
        old.rename(aside)
    target = old or _free(own, own.stem)  # the role may have other keys that stay
    next_file(keys, role).rename(target)
    _sync(target.parent)
    return aside


def _free(beside: Path, stem: str) -> Path:
    names = (f"{stem}.pem", *(f"{stem}-{number}.pem" for number in range(2, 1000)))
    return next(path for path in map(beside.with_name, names) if not path.exists())


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
