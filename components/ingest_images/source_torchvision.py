"""A data set of torchvision, by its own class: files as they are where it has files, PNG of its pictures where not."""

import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from components.ingest_images.layout import printable
from components.ingest_images.sources import Entry, Item, Refusal, Source, file_size, reader
from edgedistill.errors import DatasetError, RefusedImage
from edgedistill.images import encode_png
from edgedistill.storage import canonical_json, digest

ROOT = "~/.cache/edgedistill/torchvision"  # when the user names no folder
_BASES = {"VisionDataset", "DatasetFolder"}  # not data sets but what they are made from
_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "test": "test"}


class Torchvision(Source):
    """The parts of a data set (train, test), one after the other."""

    def __init__(self, parts: Sequence[tuple[str | None, Any]]) -> None:
        super().__init__()
        self._parts = parts
        self.total = sum(len(part) for _, part in parts)

    def digest(self) -> str:
        def content(item: Item) -> str:
            try:
                return digest(item.read())
            except RefusedImage as error:
                return error.reason

        seen = [
            (item.entry.name, item.entry.label, item.entry.split, content(item))
            for item in self.items()
            if isinstance(item, Item)
        ]
        self.position = 0
        return digest(canonical_json(seen))

    def items(self) -> Iterator[Item | Refusal]:
        done = 0
        for split, part in self._parts:
            names = _class_names(part)
            samples = getattr(part, "samples", None)
            for index in range(len(part)):
                if samples:
                    path, target = samples[index]
                    yield _file(Path(path), _label(names, target), split)
                else:
                    yield _picture(part, index, names, split)
                done += 1
                self.position = done


def open_torchvision(text: str) -> Torchvision:
    """`NAME` or `NAME@ROOT`; downloads when the root lacks it.

    Raises:
        DatasetError: no such data set, one without classes, or one that can be neither read nor downloaded.
    """
    try:
        from torchvision import datasets
    except ImportError as error:
        raise DatasetError("torchvision is not installed; install the extra: pip install edgedistill[train]") from error
    name, _, folder = text.partition("@")
    kind = getattr(datasets, name, None) if name in {*datasets.__all__} - _BASES else None
    if kind is None:
        raise DatasetError(f"torchvision has no data set {name!r}; expected one such as Caltech256, EuroSAT or CIFAR10")
    root = Path(folder or ROOT).expanduser()
    takes = inspect.signature(kind.__init__).parameters
    choices: list[tuple[str | None, dict[str, Any]]] = [(None, {})]
    if "train" in takes:
        choices = [("train", {"train": True}), ("test", {"train": False})]
    elif "split" in takes:
        choices = [(split, {"split": word}) for word, split in _SPLITS.items()]
    parts = [(split, part) for split, options in choices if (part := _made(kind, name, root, takes, options))]
    if not parts and "split" in takes:
        parts = [(None, _made(kind, name, root, takes, {}))]
    return Torchvision(parts)


def _made(kind: Any, name: str, root: Path, takes: Any, options: dict[str, Any]) -> Any:
    """The data set, from the root if it is there, else downloaded; None where it has no such split."""
    placed = {"root": str(root)} if "root" in takes else {}
    try:
        try:
            return kind(**placed, **options)
        except (RuntimeError, FileNotFoundError):
            if "download" not in takes:
                raise
            root.mkdir(parents=True, exist_ok=True)
            return kind(**placed, **options, download=True)
    except ValueError as error:
        if "split" in options:
            return None
        raise DatasetError(f"torchvision's {name} cannot be opened in {str(root)!r}: {error}") from error
    except (RuntimeError, OSError, TypeError, ImportError) as error:
        raise DatasetError(
            f"torchvision's {name} is not in {str(root)!r} and cannot be downloaded: {error}; "
            f"put its files there, or name their folder: --data torchvision:{name}@FOLDER"
        ) from error


def _class_names(part: Any) -> Sequence[str] | None:
    for attribute in ("classes", "categories"):
        names = getattr(part, attribute, None)
        if isinstance(names, list | tuple) and all(isinstance(name, str) for name in names):
            return names
    return None


def _label(names: Sequence[str] | None, target: Any) -> str:
    if isinstance(target, str):
        return target
    try:
        number = int(target)
    except (TypeError, ValueError):
        raise DatasetError(f"this data set of torchvision has targets such as {target!r}; expected one class") from None
    return names[number] if names else str(number)


def _file(path: Path, label: str, split: str | None) -> Item:
    return Item(Entry(printable(f"{label}/{path.name}"), label, split, file_size(path)), reader(path))


def _picture(part: Any, index: int, names: Sequence[str] | None, split: str | None) -> Item:
    """One that only the data set's class knows how to find. Its file, when the picture names one, else a PNG of it."""
    import numpy as np

    try:
        picture, target = part[index]
    except (OSError, SyntaxError, ValueError) as error:
        problem = RefusedImage("broken", f"torchvision cannot open image {index}: {error}")

        def refuse() -> bytes:
            raise problem

        return Item(Entry(f"{split or 'image'}/{index}", None, split), refuse)
    label = _label(names, target)
    path = getattr(picture, "filename", "")
    if path:
        picture.close()
        return _file(Path(path), label, split)
    pixels = np.asarray(picture.convert("RGB"))
    return Item(Entry(printable(f"{label}/{split or 'image'}-{index}.png"), label, split), lambda: encode_png(pixels))
