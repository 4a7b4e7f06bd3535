"""What a node believes: The Update Framework over a folder or a web server, and the check at boot that needs neither.

A refresh works on a scratch copy of the trusted metadata: python-tuf does not fsync, and metadata that a power cut
truncated would let an old release list in. The highest versions that this node has seen stand in its pointer, so even
then a replay is refused.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import urllib3
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
from tuf.ngclient import FetcherInterface, Updater

from edge.node.catalog import Catalog, Unreachable
from edge.node.state import Release
from edgedistill.bundle import MANIFEST, Manifest
from edgedistill.errors import NodeError, RefusedRelease
from edgedistill.storage import digest

TIMEOUT_S = 10.0
ROLES = ("timestamp", "snapshot", "releases")


class FolderFetcher(FetcherInterface):
    """Reads the repository from a mounted folder."""

    def _fetch(self, url: str) -> Iterator[bytes]:
        path = Path(urlsplit(url).path)
        if not path.is_file():
            raise DownloadHTTPError(f"no {path.name} at the origin", 404)
        with path.open("rb") as handle:
            while block := handle.read(1 << 16):
                yield block


class HttpFetcher(FetcherInterface):
    """Reads the repository from one web server; never follows a redirect to another."""

    def __init__(self) -> None:
        timeout = urllib3.Timeout(connect=TIMEOUT_S, read=TIMEOUT_S)
        self._pool = urllib3.PoolManager(timeout=timeout, retries=False)

    def _fetch(self, url: str) -> Iterator[bytes]:
        try:
            response = self._pool.request("GET", url, preload_content=False, redirect=False)
            with response:
                if response.status != 200:
                    raise DownloadHTTPError(f"the origin answered {response.status}", response.status)
                yield from response.stream(1 << 16)
        except urllib3.exceptions.HTTPError as error:
            raise DownloadError(f"the origin does not answer: {error}") from error


class Repository:
    """The origin, seen through a scratch copy of the trusted metadata."""

    def __init__(self, origin: str, root: bytes, scratch: Path, *, trusted: Path | None) -> None:
        if trusted is not None:
            shutil.copytree(trusted, scratch, dirs_exist_ok=True, symlinks=True)
        is_web = origin.startswith(("http://", "https://"))
        base = origin.rstrip("/") if is_web else Path(origin).resolve().as_uri()
        self.metadata = scratch
        try:
            self._updater = Updater(
                str(scratch),
                f"{base}/metadata/",
                target_base_url=f"{base}/targets/",
                fetcher=HttpFetcher() if is_web else FolderFetcher(),
                bootstrap=root,
            )
        except RepositoryError as error:
            raise NodeError(
                f"the root of trust is refused: {error}; give the operator's 1.root.json, --root"
            ) from error

    def refresh(self, name: str, highest: Mapping[str, int]) -> Catalog:
        """Fetch and verify the metadata, and read the index of one name.

        Args:
            name: of the releases.
            highest: TUF role -> highest version that this node has seen.

        Raises:
            Unreachable: the origin does not answer.
            RefusedRelease: `expired_metadata`, `old_metadata`, `bad_signature` or `bad_metadata`.
        """
        try:
            self._updater.refresh()
            target = self._updater.get_targetinfo(f"{name}/index.json")
            versions = self._versions()
            for role, seen in highest.items():
                if versions.get(role, 0) < seen:
                    raise RefusedRelease(
                        "old_metadata",
                        f"the origin's {role} is version {versions.get(role)}, this node has seen {seen}",
                    )
            if target is None:
                return Catalog(0, 0, {}, versions)
            index = json.loads(self._read(target))
        except RefusedRelease:
            raise
        except Exception as error:
            raise _typed(error) from error
        releases = {int(version): value for version, value in index["releases"].items()}
        return Catalog(int(index["latest"]), int(index["minimum_version"]), releases, versions)

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
            for name in manifest.files:
                self._target(f"{root}/{name}", folder / name)
        except RefusedRelease:
            raise
        except Exception as error:
            raise _typed(error) from error
        return manifest

    def _target(self, path: str, file: Path) -> bytes:
        target = self._updater.get_targetinfo(path)
        if target is None:
            raise RefusedRelease("missing_file", f"{path} is not among the signed targets")
        file.parent.mkdir(parents=True, exist_ok=True)
        self._updater.download_target(target, str(file))
        return file.read_bytes() if file.name == MANIFEST else b""

    def _read(self, target: TargetFile) -> bytes:
        path = self.metadata / "index.json"
        self._updater.download_target(target, str(path))
        data = path.read_bytes()
        path.unlink()
        return data

    def _versions(self) -> dict[str, int]:
        return {role: _version(self.metadata / f"{role}.json") for role in ROLES} | {
            "root": _version(self.metadata / "root.json")
        }


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
    if isinstance(error, DownloadError):
        return Unreachable(f"the origin does not answer: {error}")
    return RefusedRelease("bad_metadata", f"the origin's list of releases is refused: {error!r}")
