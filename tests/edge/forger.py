"""A repository in an attacker's hands: he changes what he likes, and signs with whatever keys he has."""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, TargetFile, Timestamp

from edgedistill import signing_metadata
from edgedistill.bundle import MANIFEST, Manifest
from edgedistill.signing_keys import KEY_FILES, read_key
from edgedistill.signing_metadata import Head, put_metadata, read_head, signed
from edgedistill.storage import DirectoryStore, digest, pretty_json


@dataclass(frozen=True)
class Forger:
    """Works on a copy of the releases folder, beside copies of older states of it and of the keys."""

    origin: Path  # the releases folder that the node asks
    older: Path  # the same folder, some signatures before
    stranger: Path  # another repository's releases folder
    keys: Path

    @property
    def store(self) -> DirectoryStore:
        return DirectoryStore(self.origin.parent)

    def head(self) -> Head:
        return read_head(self.store, older_roots=True)

    def key(self, role: str) -> CryptoSigner:
        return read_key(self.keys / KEY_FILES[role])

    def target(self, path: str) -> Path:
        """The file of a signed path."""
        folder, _, name = path.rpartition("/")
        return next((self.origin / "targets" / folder).glob(f"*.{name}"))

    def metadata(self, name: str) -> Path:
        return self.origin / "metadata" / name

    def replay(self) -> None:
        """The metadata of the older state; signed, complete, and of the past."""
        shutil.rmtree(self.metadata(""))
        shutil.copytree(self.older / "metadata", self.metadata(""))

    def replace(self, folder: Path) -> None:
        """The origin becomes a copy of another folder."""
        shutil.rmtree(self.origin)
        shutil.copytree(folder, self.origin)

    def sign_timestamp(self, by: CryptoSigner, *, change: Callable[[Timestamp], None]) -> None:
        """The next timestamp.json, changed, by whatever key."""
        content = self.head().timestamp.signed
        content.version += 1
        change(content)
        self.metadata("timestamp.json").write_bytes(signed(content, [by]))

    def sign_root(self, by: Sequence[CryptoSigner], *, change: Callable[[Root], None]) -> None:
        """The next root, changed, by whatever keys."""
        content = self.head().root.signed
        content.version += 1
        change(content)
        self.metadata(f"{content.version}.root.json").write_bytes(signed(content, list(by)))

    def publish(
        self, files: dict[str, bytes], *, index: Callable[[dict[str, Any]], dict[str, Any]] = lambda index: index
    ) -> None:
        """Targets with their signed path, and a changed index, signed as they should be: keys of a publisher stolen."""
        head = self.head()
        listed = dict(head.releases.signed.targets)
        old = json.loads(self.target("tiny/index.json").read_bytes())
        for path, data in (files | {"tiny/index.json": pretty_json(index(old))}).items():
            target = TargetFile.from_data(path, data, ["sha256"])
            folder, _, name = path.rpartition("/")
            file = self.origin / "targets" / folder / f"{target.hashes['sha256']}.{name}"
            if len(Path(folder).parts) == len(folder.split("/")) and ".." not in folder:
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(data)
            listed[path] = target
        head.releases.signed.targets = listed
        meta = put_metadata(self.store, head, "releases", head.releases.signed, [self.key("releases")])
        signing_metadata.advance(self.store, self.keys, head, head.snapshot.signed.meta | {"releases.json": meta})

    def bundle(self, version: int) -> dict[str, bytes]:
        """The files of a published release."""
        manifest = Manifest.parse(self.target(f"tiny/{version}/{MANIFEST}").read_bytes())
        return {name: self.target(f"tiny/{version}/{name}").read_bytes() for name in manifest.files}

    def release(
        self,
        *,
        files: Callable[[dict[str, bytes]], dict[str, bytes]] = lambda files: files,
        document: Callable[[dict[str, Any]], dict[str, Any]] = lambda document: document,
    ) -> None:
        """Release 2 once more as release 3, with other files (whose digests its manifest names) or another manifest."""
        changed = files(self.bundle(2))
        manifest = json.loads(self.target(f"tiny/2/{MANIFEST}").read_bytes())
        manifest["version"] = 3
        manifest["files"] = {name: {"sha256": digest(data), "size_bytes": len(data)} for name, data in changed.items()}
        raw = pretty_json(document(manifest))
        self.publish(
            {f"tiny/3/{name}": data for name, data in (changed | {MANIFEST: raw}).items()},
            index=lambda old: old | {"latest": 3, "releases": old["releases"] | {"3": digest(raw)}},
        )


def expire(content: Timestamp) -> None:
    """An hour ago."""
    content.expires = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
