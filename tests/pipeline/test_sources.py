"""Each form in which images are given makes the same data set."""

import csv
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from components.ingest_images.layout import Layout
from components.ingest_images.sources import absolute, open_source
from edgedistill.config import run_config, with_labels
from edgedistill.errors import ConfigError, DatasetError
from edgedistill.steps import Manifest
from tests.pipeline.pictures import dataset, encoded, folder, ingest, picture, write


def shape(made: Manifest, store: Path) -> set[tuple[str, str | None, str]]:
    """What a data set is, without the names of its files."""
    found = dataset(made, store)
    return {(row.image_id, None if row.truth is None else found.classes[row.truth], row.split) for row in found.rows}


def rejects(made: Manifest, store: Path) -> dict[str, str]:
    """file -> kind"""
    key = made.outputs["rejects"]
    lines = (store / key).read_text().splitlines() if key else []
    return {line["file"]: line["kind"] for line in map(json.loads, lines)}


def packed(path: Path, members: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def members(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.parametrize(("suffix", "mode"), [("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz"), ("tar.xz", "w:xz")])
def test_a_tar_is_its_folder(tmp_path: Path, suffix: str, mode: str) -> None:
    root = folder(tmp_path / "images")
    write(root / "unlabeled" / "deep" / "x.png", encoded(picture(77)))
    plain = ingest(root, tmp_path / "a")
    bare = ingest(packed(tmp_path / f"bare.{suffix}", members(root), mode), tmp_path / "b")
    topped = {f"./256_ObjectCategories/{name}": data for name, data in members(root).items()}
    under_one = ingest(packed(tmp_path / f"top.{suffix}", topped, mode), tmp_path / "c")
    assert shape(plain, tmp_path / "a") == shape(bare, tmp_path / "b") == shape(under_one, tmp_path / "c")
    assert plain.outputs["classes"] == under_one.outputs["classes"] == ["cat", "dog"]
    assert sum(row.truth is None for row in dataset(plain, tmp_path / "a").rows) == 1


def test_a_tar_is_not_read_again_when_it_was_ingested(tmp_path: Path) -> None:
    path = packed(tmp_path / "images.tar", members(folder(tmp_path / "images")))
    first, second = ingest(path, tmp_path / "store"), ingest(path, tmp_path / "store")
    assert (first.cached, second.cached) == (False, True)
    assert first.digest == second.digest


def test_what_a_tar_may_not_hold_is_refused_and_the_rest_is_used(tmp_path: Path) -> None:
    path = tmp_path / "images.tar"
    packed(path, members(folder(tmp_path / "images")))
    with tarfile.open(path, "a") as archive:
        for name, kind in {
            "cat/soft": tarfile.SYMTYPE,
            "cat/hard": tarfile.LNKTYPE,
            "cat/dev": tarfile.CHRTYPE,
        }.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "../../etc/passwd"
            archive.addfile(member)
        for name in ("/abs/x.png", "cat/../../x.png", "cat/.hidden.png", "__MACOSX/cat/._000.png"):
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"abc"))
    made = ingest(path, tmp_path / "store")
    assert rejects(made, tmp_path / "store") == {
        "cat/soft": "link",
        "cat/hard": "link",
        "cat/dev": "device",
        "/abs/x.png": "unsafe-path",
        "cat/../../x.png": "unsafe-path",
    }
    assert made.outputs["reject_reasons"] == {"link": 2, "device": 1, "unsafe-path": 2}
    assert len(dataset(made, tmp_path / "store").rows) == 16
    assert {p.name for p in tmp_path.iterdir()} == {"images", "images.tar", "store"}, "nothing was unpacked"


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_a_tar_that_ends_early_is_an_error_and_not_half_a_data_set(tmp_path: Path, mode: str) -> None:
    path = packed(tmp_path / "images.tar.gz", members(folder(tmp_path / "images", each=12)), mode)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2 + 300])
    with pytest.raises(DatasetError, match="no complete tar"):
        ingest(path, tmp_path / "store")
    assert not list((tmp_path / "store").rglob("manifest.json"))


def test_a_tar_cannot_make_its_reader_hold_a_large_header(tmp_path: Path) -> None:
    member = tarfile.TarInfo("long")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 1 << 33
    path = write(tmp_path / "bomb.tar", member.tobuf(tarfile.GNU_FORMAT) + b"a" * 4096)
    with pytest.raises(DatasetError, match="header extension"):
        ingest(path, tmp_path / "store")


def table(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
        return path
    with path.open("w", newline="", encoding="utf-8-sig") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_table_of_paths(tmp_path: Path, suffix: str) -> None:
    root = folder(tmp_path / "images", each=4)
    rows: list[dict[str, object]] = []
    for index in range(4):
        for label in ("cat", "dog"):
            side = ("train", "train", "validation", "test")[index]
            thermal = write(root / "thermal" / f"{label}{index}.png", encoded(picture(500 + index + 10 * len(rows))))
            rows.append({"image": f"{label}/{index:03d}.png", "label": label, "split": side, "paired": str(thermal)})
    rows.append({"image": "cat/nowhere.png", "label": "cat", "split": "train", "paired": None})
    rows.append({"image": "cat/000.png", "label": "cat", "split": "holdout", "paired": None})
    rows.append({"image": "", "label": None, "split": None, "paired": None})
    made = ingest(table(root / f"list.{suffix}", rows), tmp_path / "store", labeled_fraction=1.0)
    assert made.outputs["counts"] == {"train": 4, "validation": 2, "test": 2, "labeled": 4}
    assert made.outputs["reject_reasons"] == {"absent": 2, "bad-row": 1}
    for row in dataset(made, tmp_path / "store").rows:
        assert row.paired_key
        assert (tmp_path / "store" / row.paired_key).read_bytes() in [
            p.read_bytes() for p in (root / "thermal").iterdir()
        ]


def test_numbers_and_gaps_as_pandas_writes_them(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", each=6)
    rows: list[dict[str, object]] = [{"image": f"cat/{i:03d}.png", "label": float(i % 2)} for i in range(6)]
    rows.append({"image": "dog/000.png", "label": float("nan")})
    made = ingest(table(root / "list.parquet", rows), tmp_path / "store")
    assert made.outputs["classes"] == ["0", "1"]
    assert any("1 of 7 images have no label" in note for note in made.outputs["notes"])


def test_splits_that_lack_one_are_completed_from_train(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", each=12)
    rows: list[dict[str, object]] = [
        {"image": f"{label}/{i:03d}.png", "label": label, "split": "test" if i < 3 else "train"}
        for label in ("cat", "dog")
        for i in range(12)
    ]
    made = ingest(table(root / "list.csv", rows), tmp_path / "store")
    counts = made.outputs["counts"]
    assert (counts["test"], counts["train"] + counts["validation"]) == (6, 18)
    assert counts["validation"] == 4
    assert any("no validation images" in note for note in made.outputs["notes"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("picture,label\na.png,cat\n", "picture, label"),
        ("image,label\na.png,cat\n", "no image that is there"),
        ("image,label\n", "no rows"),
        ("", "expected image"),
        ("\x00image\udcff", "cannot be read"),
    ],
)
def test_a_table_that_is_none(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path / "list.csv", text.encode("utf-8", "surrogateescape"))
    with pytest.raises(DatasetError, match=said):
        ingest(path, tmp_path / "store")
    with pytest.raises(DatasetError, match="cannot be read"):
        ingest(write(tmp_path / "list.parquet", b"PAR1 not"), tmp_path / "store")


def caltech(root: Path) -> Path:
    for number, name in enumerate(("ak47", "american-flag", "backpack"), 1):
        for index in range(1, 7):
            data = encoded(picture(100 * number + index), "JPEG")
            write(
                root / "caltech256" / "256_ObjectCategories" / f"{number:03d}.{name}" / f"{number:03d}_{index:04d}.jpg",
                data,
            )
    return root


def test_torchvision_with_files_keeps_their_bytes(tmp_path: Path) -> None:
    root = caltech(tmp_path / "data")
    made = ingest(f"torchvision:Caltech256@{root}", tmp_path / "store")
    assert made.outputs["classes"] == ["001.ak47", "002.american-flag", "003.backpack"]
    plain = ingest(root / "caltech256" / "256_ObjectCategories", tmp_path / "other")
    assert shape(made, tmp_path / "store") == shape(plain, tmp_path / "other")
    assert ingest(f"torchvision:Caltech256@{root}", tmp_path / "store").cached


def test_torchvision_in_the_layout_of_image_folders(tmp_path: Path) -> None:
    folder(tmp_path / "eurosat" / "2750", classes=("Forest", "River"))
    write(tmp_path / "eurosat" / "2750" / "River" / "broken.jpg", b"no picture")
    made = ingest(f"torchvision:EuroSAT@{tmp_path}", tmp_path / "store")
    assert made.outputs["classes"] == ["Forest", "River"]
    assert rejects(made, tmp_path / "store") == {"River/broken.jpg": "no-picture"}


def test_torchvision_without_files_keeps_pictures_and_its_own_test_split(tmp_path: Path) -> None:
    raw = tmp_path / "MNIST" / "raw"
    digits = np.random.default_rng(0).integers(0, 256, (40, 28, 28), dtype=np.uint8)
    for name, part in (("train", digits[:30]), ("t10k", digits[30:])):
        labels = np.arange(len(part), dtype=np.uint8) % 2
        write(
            raw / f"{name}-images-idx3-ubyte", b"\0\0\x08\x03" + np.array(part.shape, ">i4").tobytes() + part.tobytes()
        )
        write(
            raw / f"{name}-labels-idx1-ubyte", b"\0\0\x08\x01" + np.array(len(part), ">i4").tobytes() + labels.tobytes()
        )
    made = ingest(f"torchvision:MNIST@{tmp_path}", tmp_path / "store")
    counts = made.outputs["counts"]
    assert counts["test"] == 10
    assert counts["train"] + counts["validation"] == 30
    assert counts["validation"] > 0
    first = dataset(made, tmp_path / "store").split("test")[0]
    stored = np.asarray(Image.open(tmp_path / "store" / first.key).convert("L"))
    assert any(np.array_equal(stored, digit) for digit in digits[30:])


@pytest.mark.parametrize("name", ["NoSuchSet", "os", "VisionDataset", "Kinetics@nowhere"])
def test_torchvision_without_such_a_data_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DatasetError, match="torchvision"):
        ingest(f"torchvision:{name}", tmp_path / "store")


@pytest.mark.parametrize("name", ["images.zip", "notes.txt", "images.tar.zst.txt"])
def test_a_file_of_another_kind(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=r"--data takes an image folder, a \.tar"):
        ingest(write(tmp_path / name, b"PK"), tmp_path / "store")


def test_relative_paths_are_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path / "images", each=1)
    monkeypatch.chdir(tmp_path)
    assert absolute("images") == str(tmp_path / "images")
    assert absolute("torchvision:EuroSAT@data") == f"torchvision:EuroSAT@{tmp_path / 'data'}"
    assert absolute("torchvision:EuroSAT") == "torchvision:EuroSAT"
    with pytest.raises(DatasetError, match="no folder, file or data set"):
        absolute("nowhere")


def test_folders_that_are_splits(tmp_path: Path) -> None:
    for number, side in enumerate(("train", "val", "test")):
        for label in ("cat", "dog"):
            for index in range(4):
                seed = 100 * number + 10 * index + ("cat", "dog").index(label)
                write(tmp_path / "images" / side / label / f"{index}.png", encoded(picture(seed)))
    made = ingest(tmp_path / "images", tmp_path / "store")
    assert made.outputs["classes"] == ["cat", "dog"]
    assert made.outputs["counts"] == {"train": 8, "validation": 8, "test": 8, "labeled": 2}
    assert any("taken as the splits" in note for note in made.outputs["notes"])


@pytest.mark.parametrize(
    ("paths", "strip", "expected"),
    [
        (["a/1", "b/2"], True, ["a", "b"]),
        (["t/a/1", "t/b/2"], True, ["a", "b"]),
        (["t/a/1", "t/b/2"], False, ["t", "t"]),
        (["t/1", "t/2"], True, [None, None]),
        (["t/a/1", "2"], True, ["t", None]),
        (["t/a/x/y/1", "t/unlabeled/2"], True, ["a", None]),
        (["train/1", "test/2"], False, ["train", "test"]),
        (["train/a/1", "bus/b/2"], False, ["train", "bus"]),
        (["t/train/a/1", "t/test/b/2"], True, ["a", "b"]),
        (["train/a/1", "train/b/1"], False, ["train", "train"]),
    ],
)
def test_what_folders_mean(paths: list[str], strip: bool, expected: list[str | None]) -> None:
    layout = Layout(strip_top=strip)
    for path in paths:
        layout.see(path)
    assert [layout.place(path)[0] for path in paths] == expected


def test_a_file_that_changes_between_its_two_reads_is_no_silent_mixture(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", each=3)
    source = open_source(str(root))
    source.digest()
    write(root / "cat" / "001.png", encoded(picture(99)))
    from components.ingest_images.gather import gather
    from edgedistill.progress import Progress
    from edgedistill.storage import open_store

    with pytest.raises(DatasetError, match=r"cat/001\.png' changed while it was read"):
        gather(open_store(tmp_path / "store"), "demo", source, Progress())


def test_whose_labels_are_used() -> None:
    def share(fraction: float | None = None, *, own: bool = True, overrides: tuple[str, ...] = ()) -> float:
        config = run_config("tiny", overrides)
        return with_labels(config, fraction, own=own, overrides=overrides).ingest.labeled_fraction

    assert share(own=False) == 0.1
    assert share() == 1.0
    assert share(0.3) == 0.3
    assert share(overrides=("ingest.labeled_fraction=0.1",)) == 0.1
    with pytest.raises(ConfigError, match="no share"):
        share(3)
