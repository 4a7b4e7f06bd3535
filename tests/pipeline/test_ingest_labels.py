"""Labels: none, few, contradicting; splits that the user gave."""

from pathlib import Path

import pytest

from edgedistill.errors import DatasetError
from edgedistill.steps import Manifest
from tests.pipeline.pictures import dataset, encoded, folder, ingest, picture, write


def said(made: Manifest, words: str) -> bool:
    return any(words in note for note in made.outputs["notes"])


@pytest.mark.parametrize("where", ["", "unlabeled", "unlabeled/2026/july"])
def test_no_labels_at_all(tmp_path: Path, where: str) -> None:
    for index in range(12):
        write(tmp_path / "images" / where / f"{index}.png", encoded(picture(index)))
    made = ingest(tmp_path / "images", tmp_path / "store")
    assert made.outputs["classes"] == []
    assert made.outputs["counts"] == {"train": 6, "validation": 2, "test": 4, "labeled": 0}
    assert said(made, "only the agreement with the teacher can be measured")


def test_one_class_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="two classes or more, found only 'cat'"):
        ingest(folder(tmp_path / "images", classes=("cat",)), tmp_path / "store")


def test_a_class_with_one_image_is_trained_on(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    write(root / "yak" / "only.png", encoded(picture(9000)))
    made = ingest(root, tmp_path / "store", labeled_fraction=0.1)
    only = next(row for row in dataset(made, tmp_path / "store").rows if row.source == "yak/only.png")
    assert (only.split, only.label) == ("train", 2)
    assert said(made, "1 classes have one image only")


def test_classes_too_small_for_a_share_each_still_make_three_splits(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", classes=tuple(f"class{i}" for i in range(8)), each=2)
    made = ingest(root, tmp_path / "store")
    assert min(made.outputs["counts"].values()) >= 1
    found = dataset(made, tmp_path / "store")
    assert {row.truth for row in found.split("train")} == set(range(8)), "no class lost its last training image"


@pytest.mark.parametrize(("fraction", "labeled"), [(0.0, 0), (0.01, 2), (0.5, 10), (1.0, 20)])
def test_the_labelled_share_is_of_each_class_and_the_rest_is_for_measuring(
    tmp_path: Path, fraction: float, labeled: int
) -> None:
    made = ingest(folder(tmp_path / "images", each=20), tmp_path / "store", labeled_fraction=fraction)
    found = dataset(made, tmp_path / "store")
    assert len(found.labeled) == made.outputs["counts"]["labeled"] == labeled
    assert all(row.truth is not None for row in found.rows)
    assert all(row.label is None for side in ("validation", "test") for row in found.split(side))
    classes = [row.label for row in found.labeled]
    assert classes.count(0) == classes.count(1)


def test_exact_duplicates_with_two_labels_are_reported(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    write(root / "dog" / "really-a-cat.png", encoded(picture(0)))
    write(root / "cat" / "twice.png", encoded(picture(1)))
    made = ingest(root, tmp_path / "store")
    assert made.outputs["reject_reasons"] == {"duplicate": 2}
    assert said(made, "dog/really-a-cat.png as 'dog' and cat/000.png as 'cat'")
    assert len(dataset(made, tmp_path / "store").rows) == 16


def test_a_label_is_kept_when_the_same_image_lies_among_the_unlabeled_too(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", classes=("yak", "zebra"))
    write(root / "unlabeled" / "x.png", encoded(picture(3)))
    rows = dataset(ingest(root, tmp_path / "store"), tmp_path / "store").rows
    assert len(rows) == 16
    assert all(row.truth is not None for row in rows)


def test_a_folder_without_a_picture_is_no_class(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    write(root / "annotations" / "boxes.txt", b"0 0 1 1")
    made = ingest(root, tmp_path / "store")
    assert made.outputs["classes"] == ["cat", "dog"]
    assert said(made, "no usable image and are no classes: annotations")


def test_given_splits_are_kept_and_what_they_part_is_said(tmp_path: Path) -> None:
    root = tmp_path / "images"
    lines = ["image,label,split"]
    for seed in range(12):
        side = ("train", "train", "validation", "test")[seed % 4]
        write(root / f"{seed}.png", encoded(picture(seed, 96)))
        lines.append(f"{seed}.png,{'ab'[seed % 2]},{side}")
    write(root / "leak.jpg", encoded(picture(0, 96), "JPEG", quality=70))  # 0.png is in train
    write(root / "same.png", encoded(picture(3, 96)))  # 3.png is in test
    write(root / "follows.jpg", encoded(picture(7, 96), "JPEG", quality=70))  # 7.png is in test
    lines += ["leak.jpg,a,test", "same.png,b,train", "follows.jpg,b,"]
    made = ingest(write(root / "list.csv", "\n".join(lines).encode()), tmp_path / "store")
    sides = {row.source: row.split for row in dataset(made, tmp_path / "store").rows}
    assert (sides["0.png"], sides["leak.jpg"], sides["7.png"], sides["follows.jpg"]) == (
        "train",
        "test",
        "test",
        "test",
    )
    assert said(made, "1 groups of near duplicates lie in several of the splits that you gave")
    assert said(made, "same.png in train and 3.png in test")


def test_too_few_images(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="too few for three splits"):
        ingest(folder(tmp_path / "images", each=1), tmp_path / "store")
    assert not list((tmp_path / "store").rglob("manifest.json"))
