"""Bad input stops nothing, costs no memory to speak of, and a full disk is said in one sentence."""

import io
import json
import os
import struct
import subprocess
import sys
import tarfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.ingest_images.sources import MAX_BYTES
from edgedistill.errors import DatasetError, StorageError
from edgedistill.images import MAX_PIXELS
from tests.pipeline.pictures import dataset, encoded, folder, ingest, picture, write

LIMIT = 3 * 4 * MAX_PIXELS  # bytes: three times the budgeted pixels, at Pillow's 4 bytes each


def png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")
    )


BAD = {
    "empty.jpg": (b"", "empty"),
    "text.jpg": (b"not a picture at all", "no-picture"),
    "page.png": (b"<!DOCTYPE html><html></html>", "no-picture"),
    "cut.jpg": (encoded(picture(901, 64), "JPEG", quality=95)[:-200], "truncated"),
    "cut.png": (encoded(picture(902, 64))[:-200], "truncated"),
    "claims-much.png": (png_that_claims(12_000, 12_000), "too-large"),
    "claims-more.png": (png_that_claims(2_000_000, 2_000_000), "too-large"),
    "bomb.png": (encoded(Image.new("1", (9_000, 9_000))), "too-large"),
    "float.tif": (encoded(picture(903).convert("L").convert("F"), "TIFF"), "unsupported"),
}
ODD = {
    "really-a-png.jpg": encoded(picture(801)),
    "no-extension": encoded(picture(802), "JPEG"),
    "cmyk.jpg": encoded(picture(803).convert("CMYK"), "JPEG"),
    "palette.gif": encoded(picture(804).convert("P"), "GIF"),
    "clear.png": encoded(picture(805).convert("RGBA")),
    "grey.bmp": encoded(picture(806).convert("L"), "BMP"),
    "animated.webp": encoded(picture(807), "WEBP", save_all=True, append_images=[picture(808)]),
    "deep.tiff": encoded(Image.fromarray(np.asarray(picture(809).convert("L")).astype(np.uint16) * 257), "TIFF"),
}


def test_each_bad_file_is_listed_with_its_kind_and_the_rest_is_used(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    for name, (data, _) in BAD.items():
        write(root / "cat" / name, data)
    for name, data in ODD.items():
        write(root / "dog" / name, data)
    made = ingest(root, tmp_path / "store")
    lines = (tmp_path / "store" / made.outputs["rejects"]).read_text().splitlines()
    refused = {Path(line["file"]).name: line["kind"] for line in map(json.loads, lines)}
    assert refused == {name: kind for name, (_, kind) in BAD.items()}
    assert made.outputs["rejected"] == len(BAD) == sum(made.outputs["reject_reasons"].values())
    rows = {row.source: row for row in dataset(made, tmp_path / "store").rows}
    assert len(rows) == 16 + len(ODD)
    assert rows["dog/really-a-png.jpg"].key.endswith(".png"), "the extension is of the content"
    assert (tmp_path / "store" / rows["dog/cmyk.jpg"].key).read_bytes() == ODD["cmyk.jpg"], "bytes as given"


def test_only_bad_files_is_an_error_that_shows_one(tmp_path: Path) -> None:
    write(tmp_path / "images" / "cat" / "text.jpg", b"not a picture at all")
    with pytest.raises(DatasetError, match=r"1 refused, such as 'cat/text.jpg': 20 bytes starting 6e6f"):
        ingest(tmp_path / "images", tmp_path / "store")


def test_a_file_larger_than_the_budget_is_not_read(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    with (root / "cat" / "video.mp4").open("wb") as handle:
        handle.truncate(MAX_BYTES + 1)
    made = ingest(root, tmp_path / "store")
    assert made.outputs["reject_reasons"] == {"too-big": 1}


def test_names_that_are_no_text(tmp_path: Path) -> None:
    root = folder(tmp_path / "images")
    (root / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(encoded(picture(77)))
    made = ingest(root, tmp_path / "store")
    assert "cat/caf\\udce9.png" in {row.source for row in dataset(made, tmp_path / "store").rows}


CHILD = """
import sys, warnings
warnings.simplefilter("ignore")
from pathlib import Path
from components.ingest_images import gather as gathering
from components.ingest_images.sources import open_source
from edgedistill import images
from edgedistill.progress import Progress
from edgedistill.storage import open_store

{sabotage}

def peak():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024

def run(data):
    return gathering.gather(open_store(sys.argv[3]), "demo", open_source(data), Progress())

run(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")
before = peak()
made = run(sys.argv[2])
print(peak() - before, len(made.images), len(made.refusals))
"""


def grown(data: Path, tmp_path: Path, sabotage: str = "") -> tuple[int, int, int]:
    """(bytes that ingesting took at its peak beside what a small run takes, images, refusals)"""
    warm = folder(tmp_path / "warm", each=2)
    arguments = [sys.executable, "-c", CHILD.format(sabotage=sabotage), str(warm), str(data), str(tmp_path / "store")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    taken, images, refusals = map(int, done.stdout.split())
    return taken, images, refusals


def largest(root: Path) -> Path:
    """Four pictures of the whole budget, of the kinds that take most to decode."""
    side = int(MAX_PIXELS**0.5)
    scene = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 50, 3), dtype=np.uint8))
    large = scene.resize((side, side), Image.Resampling.NEAREST)
    turned = Image.Exif()
    turned[0x0112] = 6
    write(root / "a" / "progressive.jpg", encoded(large, "JPEG", progressive=True, subsampling=0))
    write(root / "a" / "turned.jpg", encoded(large, "JPEG", exif=turned))
    write(root / "b" / "alpha.png", encoded(large.convert("RGBA"), compress_level=1))
    write(root / "b" / "grey.png", encoded(large.convert("L"), compress_level=1))
    return root


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return largest(tmp_path_factory.mktemp("large"))


@pytest.fixture(scope="module")
def bombs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = folder(tmp_path_factory.mktemp("bombs"))
    write(root / "cat" / "bomb.png", encoded(Image.new("RGB", (8_000, 8_000)), compress_level=1))
    return root


def test_memory_stays_below_three_times_the_budget(large: Path, bombs: Path, tmp_path: Path) -> None:
    taken, images, _ = grown(large, tmp_path / "a")
    assert images == 4
    assert taken <= LIMIT, f"{taken / 1e6:.0f} MB"
    taken, images, refusals = grown(bombs, tmp_path / "b")
    assert (images, refusals) == (16, 1)
    assert taken <= LIMIT / 10, f"{taken / 1e6:.0f} MB"


def test_without_the_check_of_the_header_a_bomb_takes_more(bombs: Path, tmp_path: Path) -> None:
    """Negative control."""
    sabotage = "opened = images._opened; images._opened = lambda data, formats, _: opened(data, formats, 1 << 62)"
    taken, _, refusals = grown(bombs, tmp_path, sabotage)
    assert refusals == 0
    assert taken > LIMIT


def test_without_the_common_budget_the_threads_take_more(large: Path, tmp_path: Path) -> None:
    """Negative control: four pictures at once."""
    sabotage = "gathering.Budget.take = lambda self, amount: 0; gathering.Budget.give = lambda self, amount: None"
    taken, images, _ = grown(large, tmp_path, sabotage)
    assert images == 4
    assert taken > LIMIT


def tar_of(path: Path, count: int) -> Path:
    """Distinct pictures of half a megabyte each: a reader does not look at what follows a PNG's end."""
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 256, (400, 400, 3), dtype=np.uint8))
    data = encoded(noise, compress_level=1)
    with tarfile.open(path, "w:gz", compresslevel=1) as archive:
        for index in range(count):
            member = tarfile.TarInfo(f"top/{'ab'[index % 2]}/{index}.png")
            member.size = len(data) + 4
            archive.addfile(member, io.BytesIO(data + struct.pack(">I", index)))
    return path


@pytest.mark.parametrize("kept", [False, True], ids=["streamed", "negative control"])
def test_the_memory_for_a_tar_does_not_grow_with_it(tmp_path: Path, kept: bool) -> None:
    sabotage = "now, all = gathering._read_now, []\ngathering._read_now = lambda item: all.append(now(item)) or all[-1]"
    little, images, _ = grown(tar_of(tmp_path / "little.tar.gz", 40), tmp_path / "a", sabotage if kept else "")
    assert images == 40
    much, images, _ = grown(tar_of(tmp_path / "much.tar.gz", 120), tmp_path / "b", sabotage if kept else "")
    assert images == 120
    assert (much - little > 30e6) == kept, f"{little / 1e6:.0f} MB and {much / 1e6:.0f} MB"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_full_disk_is_one_sentence_and_the_same_command_goes_on_when_there_is_space(
    small_disk: Path, tmp_path: Path
) -> None:
    draw = np.random.default_rng(4)
    root = tmp_path / "images"
    for index in range(24):
        noise = Image.fromarray(draw.integers(0, 256, (150, 150, 3), dtype=np.uint8))
        write(root / "ab"[index % 2] / f"{index}.png", encoded(noise))
    with pytest.raises(StorageError, match="No space left on device"):
        ingest(root, small_disk / "store")
    files = {path for path in (small_disk / "store" / "datasets").rglob("*") if path.is_file()}
    assert 0 < len(files) < 24
    assert all(path.stem in {hashed(p) for p in root.rglob("*.png")} for path in files), "whole objects only"
    subprocess.run(["mount", "-o", "remount,size=8m", str(small_disk)], check=True)
    stamps = {path: path.stat().st_mtime_ns for path in files}
    made = ingest(root, small_disk / "store")
    assert sum(made.outputs["counts"][side] for side in ("train", "validation", "test")) == 24
    assert {path: path.stat().st_mtime_ns for path in files} == stamps, "what was stored is not written again"
    assert made.digest == ingest(root, tmp_path / "other").digest


def hashed(path: Path) -> str:
    from edgedistill.storage import file_digest

    return file_digest(path)


@pytest.mark.parametrize("same", [True, False])
def test_two_at_once_on_one_store(tmp_path: Path, same: bool) -> None:
    first = folder(tmp_path / "first", each=30)
    second = first if same else folder(tmp_path / "second", classes=("cat", "yak"), each=24)
    alone = [ingest(data, tmp_path / f"alone{number}").digest for number, data in enumerate((first, second))]
    with ThreadPoolExecutor(2) as pool:
        together = list(pool.map(lambda data: ingest(data, tmp_path / "store"), (first, second)))
    assert [made.digest for made in together] == alone
    for made in together:
        assert all((tmp_path / "store" / row.key).is_file() for row in dataset(made, tmp_path / "store").rows)
    assert not list((tmp_path / "store").rglob(".tmp-*"))


def test_two_processes_at_once_on_one_store(tmp_path: Path) -> None:
    root = folder(tmp_path / "images", each=30)
    command = [sys.executable, "-m", "components", "ingest_images", "--store", str(tmp_path / "store")]
    command += ["--data", str(root), "--config", "{}", "--output"]
    children = [subprocess.Popen([*command, str(tmp_path / f"{number}.json")]) for number in range(2)]
    assert [child.wait(120) for child in children] == [0, 0]
    made = [json.loads((tmp_path / f"{number}.json").read_text())["outputs"] for number in range(2)]
    assert made[0] == made[1] == dict(ingest(root, tmp_path / "alone").outputs)
