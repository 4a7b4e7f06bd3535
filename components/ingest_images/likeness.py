"""Near duplicates: re-saved and resized copies of one picture, found without comparing all with all.

A picture's 64-bit difference hash proposes, a 16 x 18 thumbnail decides. The hash alone takes many handwritten digits
for copies of each other; the thumbnails of two digits differ by 6 grey levels or more, those of a photo and its
re-saved copy by one or two. Crops, mirrored and recoloured copies are not found.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgedistill.images import Pixels

MAX_BITS = 7  # differing bits of 64 in two hashes; BANDS is one more, so that one band is always equal
BANDS = 8
MAX_LEVELS = 4.0  # root mean square between two thumbnails, grey levels ...
MAX_SHARE = 0.1  # ... and as a share of the fainter picture's contrast ...
NOISE = 0.5  # ... unless it is no more than rounding
MAX_NEIGHBOURS = 500  # in one band, in the order of brightness: bounds the work when very many look the same

_ROWS, _COLUMNS = 16, 18  # of the thumbnail; the hash has 8 x 9 means, so 8 x 8 differences
_COMPARED = 1 << 14  # pairs of thumbnails at once


@dataclass(frozen=True)
class Impression:
    """What a picture looks like from afar."""

    bits: int  # 64-bit difference hash
    thumbnail: bytes  # (16, 18, 3) uint8


def impression(pixels: Pixels) -> Impression:
    """Of (H, W, 3) uint8; the aspect ratio does not count."""
    size = (4 * _COLUMNS, 4 * _ROWS)
    small = np.asarray(Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))
    means = small.reshape(_ROWS, 4, _COLUMNS, 4, 3).mean((1, 3), dtype=np.float32)  # (16, 18, 3)
    grey = means.mean(2).reshape(8, 2, 9, 2).mean((1, 3))  # (8, 9)
    brighter = (grey[:, 1:] > grey[:, :-1]).ravel()
    return Impression(int.from_bytes(np.packbits(brighter).tobytes(), "big"), np.rint(means).astype(np.uint8).tobytes())


def group(impressions: Sequence[Impression]) -> NDArray[np.int64]:
    """(N,): for each picture the index of the first one of its group; alone, its own."""
    bits = np.array([one.bits for one in impressions], np.uint64)
    thumbnails = np.frombuffer(b"".join(one.thumbnail for one in impressions), np.uint8).reshape(len(bits), -1)
    brightness = thumbnails.mean(1)
    contrast = thumbnails.std(1)
    groups = _Groups(len(bits))
    for band in range(BANDS):
        part = _band(bits, band)
        order = np.lexsort((brightness, part))
        for step in range(1, min(MAX_NEIGHBOURS, len(order) - 1) + 1):
            left, right = order[:-step], order[step:]
            # A root mean square is at least the difference of the means, so a darker neighbour is no candidate.
            near = (part[left] == part[right]) & (brightness[right] - brightness[left] <= MAX_LEVELS)
            if not near.any():
                break
            left, right = left[near], right[near]
            alike = (np.bitwise_count(bits[left] ^ bits[right]) <= MAX_BITS) & (
                groups.first[left] != groups.first[right]
            )
            groups.join(*_confirmed(left[alike], right[alike], thumbnails, contrast))
    return groups.first


def _band(bits: NDArray[np.uint64], band: int) -> NDArray[np.uint64]:
    """Every eighth bit: one column of the picture, which varies more from picture to picture than a row of sky."""
    picked: NDArray[np.uint64] = bits >> np.uint64(band)
    return picked & np.uint64(0x0101010101010101)


def _confirmed(
    left: NDArray[np.int64],
    right: NDArray[np.int64],
    thumbnails: NDArray[np.uint8],
    contrast: NDArray[np.float64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The pairs whose thumbnails agree."""
    kept = np.zeros(len(left), bool)
    for start in range(0, len(left), _COMPARED):
        part = slice(start, start + _COMPARED)
        difference = thumbnails[left[part]].astype(np.float32) - thumbnails[right[part]]
        levels = np.sqrt((difference**2).mean(1))
        faint = np.minimum(contrast[left[part]], contrast[right[part]])
        kept[part] = (levels <= MAX_LEVELS) & (levels <= np.maximum(MAX_SHARE * faint, NOISE))
    return left[kept], right[kept]


class _Groups:
    """Union-find; `first` is up to date after each join."""

    def __init__(self, count: int) -> None:
        self.first = np.arange(count)

    def join(self, left: NDArray[np.int64], right: NDArray[np.int64]) -> None:
        if not len(left):
            return
        parent = self.first
        for one, other in zip(left.tolist(), right.tolist(), strict=True):
            a, b = self._root(one), self._root(other)
            parent[max(a, b)] = min(a, b)
        while (parent[parent] != parent).any():
            parent[:] = parent[parent]

    def _root(self, index: int) -> int:
        while (above := int(self.first[index])) != index:
            index = above
        return index
