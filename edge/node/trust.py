"""What a node believes: The Update Framework over a folder or a web server, and the check at boot that needs neither.

A refresh works on a scratch copy of the trusted metadata: python-tuf does not fsync, and metadata that a power cut
truncated would let an old release list in. The highest versions that this node has seen stand in its pointer, each
with the keys it was signed for, so even then a replay is refused; and when a newer root has changed a role's keys,
versions that a thief of the old ones made up bar nothing.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tuf.api.exceptions import (
    BadVersionNumberError,
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    LengthOrHashMismatchError,
    RepositoryError,
    UnsignedMetadataError,
)
from tuf.api.metadata import Metadata, Root, TargetFile, Targets
from tuf.ngclient import Updater, UpdaterConfig

from edge.node.catalog import Catalog, Seen, Unreachable
from edge.node.disk import copy_folder
from edge.node.download import SMALL_BYTES, FolderFetcher, HttpFetcher, Redirected, fetch_target
from edge.node.state import Release
from edgedistill.bundle import MANIFEST, Manifest
from edgedistill.errors import NodeError, RefusedRelease
from edgedistill.storage import digest

ROLES = ("timestamp", "snapshot", "targets")  # whose keys the root names; `releases` has its keys from targets
LIMITS = UpdaterConfig(
    max_root_rotations=256,  # in a repository's life: each refresh counts from the operator's first root on
    root_max_length=64 << 10,
    timestamp_max_length=16 << 10,
    snapshot_max_length=64 << 10,
    targets_max_length=4 << 20,
)
_DIGEST = re.compile(r"[0-9a-f]{64}")


class Repository:
    """The origin, seen through a scratch copy of the trusted metadata."""

    def __init__(
        self, origin: str, root: bytes, scratch: Path, *, trusted: Path | None, ca: Path | None = None
    ) -> None:
        if trusted is not None and trusted.is_dir():
            copy_folder(trusted, scratch)
        is_web = origin.startswith(("http://", "https://"))
        base = origin.rstrip("/") if is_web else Path(origin).resolve().as_uri()
        self.metadata, self._root = scratch, root
        self._targets = f"{base}/targets/"
        self._fetcher = HttpFetcher(ca) if is_web else FolderFetcher()
        try:
            self._updater = Updater(
                str(scratch),
                f"{base}/metadata/",
                target_base_url=self._targets,
                fetcher=self._fetcher,
                config=LIMITS,
                bootstrap=root,
            )
        except RepositoryError as error:
            raise NodeError(
                f"the root of trust is refused: {error}; give the operator's 1.root.json, --root"
            ) from error

    def refresh(self, name: str, highest: Mapping[str, Seen]) -> Catalog:
        """Fetch and verify the metadata, and read the index of one name.

        Args:
            name: of the releases.
            highest: TUF role -> what this node has seen.

        Raises:
            Unreachable: the origin does not answer, or not with what its metadata lists.
            RefusedRelease: `expired_metadata`, `old_metadata`, `bad_signature`, `wrong_digest` or `bad_metadata`.
        """
        try:
            self._updater.refresh()
            target = self._updater.get_targetinfo(f"{name}/index.json")
            remembered = remember(highest, self._seen())
            if target is None:
                return Catalog(0, 0, {}, remembered)
            return _catalog(json.loads(self._read(target)), remembered)
        except (RefusedRelease, OSError, MemoryError):  # the last two are this machine's
            raise
        except DownloadLengthMismatchError as error:
            raise RefusedRelease("bad_metadata", f"the origin's list of releases does not end: {error}") from error
        except Exception as error:
            raise _typed(error) from error

    def fetch(self, release: Release, folder: Path) -> Manifest:
        """Download one listed release; every file is checked against its signed length and digest.

        Raises:
            Unreachable: the origin does not answer.
            RefusedRelease: a file is not what was signed, or the manifest is not the listed one.
        """
        root = f"{release.name}/{release.version}"
        try:
            data = self._target(f"{root}/{MANIFEST}", folder / MANIFEST)
            if digest(data) != release.digest:
                raise RefusedRelease("wrong_digest", f"release {release.version}'s manifest is not the listed one")
            manifest = Manifest.parse(data)
            if (manifest.name, manifest.version) != (release.name, release.version):
                raise RefusedRelease("mix_and_match", f"the manifest is of {manifest.name} {manifest.version}")
            for name, file in manifest.files.items():
                self._target(f"{root}/{name}", folder / name, size=file.size_bytes)
        except (RefusedRelease, OSError, MemoryError):  # the last two are this machine's
            raise
        except Exception as error:
            raise _typed(error) from error
        return manifest

    def _target(self, path: str, file: Path, *, size: int | None = None) -> bytes:
        target = self._updater.get_targetinfo(path)
        if target is None:
            raise RefusedRelease("missing_file", f"{path} is not among the signed targets")
        if size is not None and target.length != size:
            raise RefusedRelease("mix_and_match", f"{path} is signed with {target.length} bytes, its manifest: {size}")
        if size is None and target.length > SMALL_BYTES:
            raise RefusedRelease("bad_metadata", f"{path} is signed with {target.length} bytes, above {SMALL_BYTES}")
        folder, _, name = target.path.rpartition("/")
        url = f"{self._targets}{folder}/{target.hashes['sha256']}.{name}"  # TUF's consistent snapshots
        fetch_target(self._fetcher.read, url, target, file)
        return file.read_bytes() if file.name == MANIFEST else b""

    def _read(self, target: TargetFile) -> bytes:
        if target.length > SMALL_BYTES:
            raise RefusedRelease("bad_metadata", f"the index has {target.length} bytes, above {SMALL_BYTES}")
        path = self.metadata / "index.json"
        self._updater.download_target(target, str(path))
        data = path.read_bytes()
        path.unlink()
        return data

    def _seen(self) -> dict[str, Seen]:
        """What the verified metadata in the scratch copy says, root first."""
        root = Metadata[Root].from_file(str(self.metadata / "root.json")).signed
        targets = Metadata[Targets].from_file(str(self.metadata / "targets.json")).signed
        releases = targets.delegations.roles["releases"] if targets.delegations and targets.delegations.roles else None
        if releases is None:
            raise RefusedRelease("bad_metadata", "targets.json delegates nothing to `releases`")
        keyids = {role: sorted(root.roles[role].keyids) for role in ROLES} | {"releases": sorted(releases.keyids)}
        keyids = {"root": [digest(self._root)]} | keyids
        return {role: Seen(version=_version(self.metadata / f"{role}.json"), keyids=keyids[role]) for role in keyids}


def remember(highest: Mapping[str, Seen], now: Mapping[str, Seen]) -> dict[str, Seen]:
    """What a node has seen after this refresh.

    A role's number binds as long as its keys are the same; the root's as long as the operator gives the same first
    root, whatever its keys. A role gets other keys only by a root (or, for `releases`, targets) that is at least as
    new as the one that was seen.

    Raises:
        RefusedRelease: `old_metadata`.
    """
    for role, seen in highest.items():
        if seen["keyids"] == now[role]["keyids"] and now[role]["version"] < seen["version"]:
            raise RefusedRelease(
                "old_metadata",
                f"the origin's {role} is version {now[role]['version']}, this node has seen {seen['version']}",
            )
    return dict(now)


def _catalog(index: dict[str, Any], highest: Mapping[str, Seen]) -> Catalog:
    releases = {int(version): str(value) for version, value in index["releases"].items()}
    for version, value in releases.items():
        if not _DIGEST.fullmatch(value):
            raise ValueError(f"release {version} is listed with digest {value[:80]!r}")
    return Catalog(int(index["latest"]), int(index["minimum_version"]), releases, highest)


def verify_offline(metadata: Path, root: bytes, manifest: bytes, release: Release) -> None:
    """Check the active release by signature against the stored metadata: no network, and no clock.

    Expiry only blocks new activations; a node that was off for a year serves what it served.

    Raises:
        RefusedRelease: `bad_signature` or `wrong_digest`.
    """
    try:
        trusted = _root_chain(metadata, root)
        targets = Metadata[Targets].from_file(str(metadata / "targets.json"))
        trusted.verify_delegate("targets", targets.signed_bytes, targets.signatures)
        releases = Metadata[Targets].from_file(str(metadata / "releases.json"))
        targets.signed.verify_delegate("releases", releases.signed_bytes, releases.signatures)
        listed = releases.signed.targets[f"{release.name}/{release.version}/{MANIFEST}"]
    except Exception as error:
        raise RefusedRelease("bad_signature", f"the stored metadata does not vouch for the release: {error}") from error
    if digest(manifest) != release.digest or listed.hashes.get("sha256") != release.digest:
        raise RefusedRelease("wrong_digest", "the release on disk is not the signed one")


def _root_chain(metadata: Path, root: bytes) -> Root:
    """From the operator's root to the newest stored one, each signed by the one before it."""
    trusted = Metadata[Root].from_bytes(root)
    trusted.signed.verify_delegate("root", trusted.signed_bytes, trusted.signatures)
    while (path := metadata / "root_history" / f"{trusted.signed.version + 1}.root.json").exists():
        newer = Metadata[Root].from_file(str(path))
        trusted.signed.verify_delegate("root", newer.signed_bytes, newer.signatures)
        newer.signed.verify_delegate("root", newer.signed_bytes, newer.signatures)
        trusted = newer
    return trusted.signed


def _version(path: Path) -> int:
    document: dict[str, Any] = json.loads(path.read_bytes())
    return int(document["signed"]["version"])


def _typed(error: Exception) -> NodeError | RefusedRelease:
    """python-tuf's errors and what a hostile file can raise, as one of ours."""
    if isinstance(error, LengthOrHashMismatchError):
        return RefusedRelease("wrong_digest", f"a file of the origin is not what was signed: {error}")
    if isinstance(error, ExpiredMetadataError):
        return RefusedRelease("expired_metadata", f"the origin's list of releases has expired: {error}")
    if isinstance(error, UnsignedMetadataError):
        return RefusedRelease("bad_signature", f"the origin's list of releases is not signed by a trusted key: {error}")
    if isinstance(error, BadVersionNumberError):
        return RefusedRelease("old_metadata", f"the origin offers an older list of releases: {error}")
    if isinstance(error, DownloadLengthMismatchError):
        return RefusedRelease("wrong_digest", f"a file of the origin is longer than was signed: {error}")
    if isinstance(error, Redirected):
        return Unreachable(str(error), "redirected")
    if isinstance(error, DownloadHTTPError) and error.status_code == 404:
        return Unreachable(f"the origin lacks a file that it should have: {error}", "missing_file")
    if isinstance(error, DownloadError):
        return Unreachable(f"the origin does not answer: {error}")
    return RefusedRelease("bad_metadata", f"the origin's list of releases is refused: {error!r}")
