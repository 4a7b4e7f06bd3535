"""Near duplicates are on one side of a split, and what only looks alike to a hash is not one."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from components.ingest_images import likeness
from components.ingest_images.likeness import MAX_NEIGHBOURS, Impression, group, impression
from edgedistill.demo import write_demo
from edgedistill.images import decode
from tests.pipeline.pictures import dataset, encoded, folder, ingest, picture, write

COPIES = {
    "saved again": lambda p: encoded(p, "JPEG", quality=60),
    "half the size": lambda p: encoded(p.resize((48, 48), Image.Resampling.BICUBIC)),
    "twice the size": lambda p: encoded(p.resize((192, 192), Image.Resampling.LANCZOS), "JPEG", quality=85),
    "another format": lambda p: encoded(p, "WEBP", quality=80),
}


def seen(data: bytes) -> Impression:
    return impression(decode(data, formats=("JPEG", "PNG", "WEBP")))


@pytest.mark.parametrize("copy", COPIES)
def test_a_copy_is_found(copy: str) -> None:
    pictures = [picture(seed, 96) for seed in range(60)]
    pairs = [seen(data) for p in pictures for data in (encoded(p), COPIES[copy](p))]
    assert group(pairs).reshape(-1, 2).tolist() == [[2 * i, 2 * i] for i in range(60)]


@pytest.mark.parametrize(
    "other",
    [
        lambda p: ImageOps.mirror(p),
        lambda p: ImageOps.invert(p),
        lambda p: Image.merge("RGB", p.split()[::-1]),
        lambda p: p.crop((24, 24, 96, 96)),
    ],
)
def test_another_picture_is_none(other: object) -> None:
    pairs = [seen(encoded(one)) for seed in range(40) for p in [picture(seed, 96)] for one in (p, other(p))]  # type: ignore[operator]
    assert group(pairs).tolist() == list(range(80))


def test_plain_colours_are_told_apart_although_their_hash_is_equal() -> None:
    plain = [Image.new("RGB", (40, 40), colour) for colour in ("black", "white", "red", "lime", "blue", "#800000")]
    impressions = [seen(encoded(p)) for p in plain]
    assert len({one.bits for one in impressions}) == 1
    assert group(impressions).tolist() == list(range(6))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> list[Impression]:
    """900 handwritten digits, 30 a class and writer."""
    demo = write_demo(tmp_path_factory.mktemp("digits"), share=0.3)
    return [seen(p.read_bytes()) for p in sorted(demo.ours.rglob("*.png"))]


def test_handwritten_digits_are_not_near_duplicates(digits: list[Impression]) -> None:
    assert group(digits).tolist() == list(range(len(digits)))


def test_without_the_thumbnails_they_would_be(digits: list[Impression], monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: the hash alone merges digits."""
    monkeypatch.setattr(likeness, "_confirmed", lambda left, right, *_: (left, right))
    monkeypatch.setattr(likeness, "MAX_LEVELS", 255.0)
    assert len(set(group(digits).tolist())) < 0.8 * len(digits)


def test_banding_finds_what_comparing_all_with_all_finds() -> None:
    """Two hashes at every distance from 0 to 64, thumbnails equal: exactly those within 7 bits are joined."""
    draw = np.random.default_rng(3)
    for distance in range(65):
        base = int(draw.integers(0, 1 << 63))
        flipped = base ^ sum(1 << int(bit) for bit in draw.permutation(64)[:distance])
        thumbnail = draw.integers(0, 256, 16 * 18 * 3, dtype=np.uint8).tobytes()
        joined = group([Impression(base, thumbnail), Impression(flipped, thumbnail)])
        assert (joined[1] == 0) == (distance <= likeness.MAX_BITS)


def test_a_hundred_thousand_in_seconds() -> None:
    """20,000 pictures here (a fifth, for the time), a tenth of them copies, and 2,000 that all look the same."""
    draw = np.random.default_rng(1)
    bits = draw.integers(0, 1 << 63, 20_000, dtype=np.uint64)
    thumbnails = draw.integers(0, 256, (20_000, 16 * 18 * 3), dtype=np.uint8)
    thumbnails = (thumbnails // 4 + draw.integers(0, 190, (20_000, 1))).astype(np.uint8)
    bits[18_000:], thumbnails[18_000:] = bits[:2_000], thumbnails[:2_000]
    bits[4_000:6_000], thumbnails[4_000:6_000] = bits[4_000], thumbnails[4_000]
    ones = [Impression(int(b), t.tobytes()) for b, t in zip(bits, thumbnails, strict=True)]
    began = time.process_time()
    joined = group(ones)
    assert time.process_time() - began < 20
    assert joined[18_000:].tolist() == list(range(2_000))
    assert set(joined[4_000:6_000].tolist()) == {4_000}
    assert MAX_NEIGHBOURS < 2_000


def copied(root: Path) -> Path:
    """30 scenes, each with three near copies, under one label."""
    for seed in range(30):
        label = ("cat", "dog")[seed % 2]
        write(root / label / f"{seed}.png", encoded(picture(seed, 96)))
        for number, copy in enumerate(COPIES.values()):
            write(root / label / f"{seed}-{number}.jpg", copy(picture(seed, 96)))
    return root


def sides(made_from: Path, store: Path, **settings: object) -> dict[str, set[str]]:
    """Scene -> the splits in which it occurs."""
    found: dict[str, set[str]] = {}
    for row in dataset(ingest(made_from, store, **settings), store).rows:
        found.setdefault(Path(row.source).stem.partition("-")[0], set()).add(row.split)
    return found


def test_near_duplicates_are_never_on_both_sides_of_a_split(tmp_path: Path) -> None:
    root = copied(tmp_path / "images")
    assert all(len(splits) == 1 for splits in sides(root, tmp_path / "store").values())
    made = ingest(root, tmp_path / "store")
    assert made.outputs["counts"].keys() == {"train", "validation", "test", "labeled"}
    assert min(made.outputs["counts"].values()) > 0
    assert any("150 images are near duplicates of each other, in 30 groups" in note for note in made.outputs["notes"])


def test_switched_off_they_are(tmp_path: Path) -> None:
    """The negative control."""
    parted = sides(copied(tmp_path / "images"), tmp_path / "store", near_duplicates=False)
    assert sum(len(splits) > 1 for splits in parted.values()) > 20


def test_a_split_is_a_function_of_the_content_alone(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", each=40)
    first = {row.image_id: row.split for row in dataset(ingest(root, tmp_path / "a"), tmp_path / "a").rows}
    for index, path in enumerate(sorted((root / "cat").iterdir())):
        path.rename(path.with_name(f"renamed-{99 - index}.jpg"))
    again = {row.image_id: row.split for row in dataset(ingest(root, tmp_path / "b"), tmp_path / "b").rows}
    assert again == first
    write(root / "cat" / "new.png", encoded(picture(5000)))
    more = {row.image_id: row.split for row in dataset(ingest(root, tmp_path / "b"), tmp_path / "b").rows}
    assert sum(more[image_id] != split for image_id, split in first.items()) <= 2, "at most one at each border"


def test_an_impression_is_small() -> None:
    one = seen(encoded(picture(1, 200)))
    assert 0 <= one.bits < 1 << 64
    assert len(one.thumbnail) == 16 * 18 * 3
    assert replace(one) == one
