"""The signed repository: what is published, what is not, and by whom."""

import json
import shutil
from pathlib import Path

import pytest

from edgedistill import signing
from edgedistill.bundle import MANIFEST, Manifest, read_bundle, write_bundle
from edgedistill.errors import RefusedRelease, SigningError, SwapConflict
from edgedistill.storage import DirectoryStore, ObjectStore, open_store, pretty_json


@pytest.fixture
def place(tmp_path: Path) -> tuple[ObjectStore, Path]:
    """A repository without a release, and its keys."""
    store = open_store(tmp_path / "store")
    signing.init_repository(store, tmp_path / "keys")
    return store, tmp_path / "keys"


def bundle(folder: Path, version: int, *, model: bytes = b"<net/>", name: str = "demo") -> Path:
    folder.mkdir(parents=True)
    write_bundle(
        folder,
        name=name,
        version=version,
        created="2026-01-01T00:00:00Z",
        model_xml=model,
        model_bin=b"\0" * 64,
        labels=["cat", "dog"],
        size=8,
        golden=[(b"\x89PNG", [0.5, -0.5])],
    )
    return folder


def test_a_release_is_listed_by_its_manifests_digest(place: tuple[ObjectStore, Path], tmp_path: Path) -> None:
    store, keys = place
    assert signing.next_version(store, "demo") == 1
    assert signing.publish(store, keys, bundle(tmp_path / "b1", 1)) == 1
    index = signing.list_releases(store, "demo")
    assert index["releases"] == {"1": read_bundle(tmp_path / "b1").digest}
    assert index["latest"] == 1
    assert signing.next_version(store, "demo") == 2


def test_the_same_bundle_again_changes_nothing(place: tuple[ObjectStore, Path], tmp_path: Path) -> None:
    store, keys = place
    signing.publish(store, keys, bundle(tmp_path / "b1", 1))
    before = sorted(store.list("releases/"))
    signing.publish(store, keys, tmp_path / "b1")
    assert sorted(store.list("releases/")) == before


def test_a_version_must_rise(place: tuple[ObjectStore, Path], tmp_path: Path) -> None:
    store, keys = place
    signing.publish(store, keys, bundle(tmp_path / "b2", 2))
    for version in (1, 2):
        with pytest.raises(SigningError, match="does not rise above 2"):
            signing.publish(store, keys, bundle(tmp_path / f"other{version}", version, model=b"<other/>"))


def test_a_withdrawn_release_is_no_longer_listed(place: tuple[ObjectStore, Path], tmp_path: Path) -> None:
    store, keys = place
    signing.publish(store, keys, bundle(tmp_path / "b1", 1))
    with pytest.raises(SigningError, match="no release of 'demo' would be left"):
        signing.withdraw(store, keys, name="demo", version=1)
    signing.withdraw(store, keys, name="demo", version=1, leave_none=True)
    index = signing.list_releases(store, "demo")
    assert index["releases"] == {}
    assert index["withdrawn"] == [1]
    assert signing.next_version(store, "demo") == 2, "a number is never used twice"
    with pytest.raises(SigningError, match="no release 1"):
        signing.withdraw(store, keys, name="demo", version=1)


def test_a_store_with_one_name_needs_no_name(place: tuple[ObjectStore, Path], tmp_path: Path) -> None:
    store, keys = place
    with pytest.raises(SigningError, match="no release; run the pipeline"):
        signing.only_name(store)
    signing.publish(store, keys, bundle(tmp_path / "b1", 1))
    assert signing.only_name(store) == "demo"
    signing.publish(store, keys, bundle(tmp_path / "b2", 1, name="farm"))
    with pytest.raises(SigningError, match="releases of demo, farm; choose one with --name"):
        signing.only_name(store)


def test_a_refresh_needs_the_online_keys_only(place: tuple[ObjectStore, Path], tmp_path: Path) -> None:
    store, keys = place
    signing.publish(store, keys, bundle(tmp_path / "b1", 1))
    before = json.loads(store.get(signing.TIMESTAMP))["signed"]
    online = tmp_path / "online-only"
    shutil.copytree(keys / "online", online / "online")
    signing.refresh(store, online)
    after = json.loads(store.get(signing.TIMESTAMP))["signed"]
    assert after["version"] == before["version"] + 1
    with pytest.raises(SigningError, match="no releases key"):
        signing.publish(store, online, bundle(tmp_path / "b2", 2))
    assert signing.list_releases(store, "demo")["latest"] == 1


def test_private_keys_are_their_owners_alone(place: tuple[ObjectStore, Path]) -> None:
    _, keys = place
    files = list(keys.rglob("*.pem"))
    assert len(files) == 5
    assert {path.stat().st_mode & 0o077 for path in files} == {0}


def test_other_keys_are_refused(place: tuple[ObjectStore, Path], tmp_path: Path) -> None:
    store, _ = place
    other = open_store(tmp_path / "other-store")
    signing.init_repository(other, tmp_path / "other-keys")
    with pytest.raises(SigningError, match="not this repository's"):
        signing.init_repository(store, tmp_path / "other-keys")


def test_without_a_repository_the_next_command_is_named(tmp_path: Path) -> None:
    with pytest.raises(SigningError, match="edgedistill release init"):
        signing.list_releases(open_store(tmp_path / "store"), "demo")


def test_a_bundle_that_is_not_whole_is_not_published(place: tuple[ObjectStore, Path], tmp_path: Path) -> None:
    store, keys = place
    folder = bundle(tmp_path / "b1", 1)
    (folder / "model.bin").write_bytes(b"\1" * 64)
    with pytest.raises(RefusedRelease):
        signing.publish(store, keys, folder)
    assert signing.list_releases(store, "demo")["latest"] == 0


class _Overtaken(DirectoryStore):
    """Somebody else publishes just before our swap."""

    def swap(self, key: str, data: bytes, *, expected: bytes | None) -> None:
        path = Path(self.uri) / key
        path.write_bytes(path.read_bytes() + b" ")
        super().swap(key, data, expected=expected)


def test_of_two_publishers_at_once_one_is_told(place: tuple[ObjectStore, Path], tmp_path: Path) -> None:
    store, keys = place
    with pytest.raises(SwapConflict):
        signing.publish(_Overtaken(Path(store.uri)), keys, bundle(tmp_path / "b1", 1))
    assert signing.list_releases(store, "demo")["latest"] == 0, "nothing of it is visible"


class _Dies(DirectoryStore):
    """Ends before the swap, as a kill -9 would."""

    def swap(self, key: str, data: bytes, *, expected: bytes | None) -> None:
        raise KeyboardInterrupt


def test_a_publisher_that_died_blocks_nobody(place: tuple[ObjectStore, Path], tmp_path: Path) -> None:
    store, keys = place
    folder = bundle(tmp_path / "b1", 1)
    with pytest.raises(KeyboardInterrupt):
        signing.publish(_Dies(Path(store.uri)), keys, folder)
    assert signing.list_releases(store, "demo")["latest"] == 0
    signing.publish(store, keys, folder)
    assert signing.list_releases(store, "demo")["latest"] == 1


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("version", 0),
        ("version", "1"),
        ("input", {"name": "image", "datatype": "UINT8", "layout": "NHWC", "size": 10**9, "channels": 3}),
        ("surprise", 1),
        ("name", "../up"),
        ("name", "UP"),
        ("files", {"../model.xml": {"sha256": "0" * 64, "size_bytes": 1}}),
        ("files", {"/model.xml": {"sha256": "0" * 64, "size_bytes": 1}}),
        ("files", {}),
        ("golden", []),
        ("class_counts", [1]),
        ("class_counts", [1, 2, 3]),
        ("class_counts", [0, 0]),
        ("class_counts", [-1, 2]),
        ("class_counts", [0.5, 0.5]),
        ("class_counts", []),
    ],
)
def test_a_manifest_that_lies_is_refused(tmp_path: Path, field: str, value: object) -> None:
    good = json.loads((bundle(tmp_path / "b", 1) / MANIFEST).read_bytes())
    Manifest.parse(pretty_json(good))
    Manifest.parse(pretty_json(good | {"class_counts": [3, 0]}))
    with pytest.raises(RefusedRelease):
        Manifest.parse(pretty_json(good | {field: value}))


def test_a_manifest_without_class_counts_keeps_its_digest(tmp_path: Path) -> None:
    """Releases from before there were any are signed by the bytes that they have."""
    data = (bundle(tmp_path / "b", 1) / MANIFEST).read_bytes()
    assert b"class_counts" not in data
    manifest = Manifest.parse(data)
    assert manifest.class_counts == ()
    assert manifest.digest == read_bundle(tmp_path / "b").digest
