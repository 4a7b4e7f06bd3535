"""Pictures that are made as tests need them: smooth like photos, so that re-saving changes little."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from components.ingest_images.run import run
from edgedistill.dataset import Dataset, read_dataset
from edgedistill.progress import Progress
from edgedistill.steps import Manifest
from edgedistill.storage import open_store


def picture(seed: int, size: int = 32) -> Image.Image:
    """A scene of its own: no two seeds look alike."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def write(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


def folder(root: Path, *, classes: tuple[str, ...] = ("cat", "dog"), each: int = 8) -> Path:
    """An image folder of distinct pictures."""
    for number, label in enumerate(classes):
        for index in range(each):
            write(root / label / f"{index:03d}.png", encoded(picture(1000 * number + index)))
    return root


def ingest(data: Path | str, store: Path, **settings: object) -> Manifest:
    """The step, in this process."""
    return run(store=str(store), data=str(data), config=settings, progress=Progress())


def dataset(made: Manifest, store: Path) -> Dataset:
    """What it made."""
    return read_dataset(open_store(store), made)
