"""Pictures of clients become pixels: off the event loop, and never more at once than the whole node can hold.

Decoding holds at most three times Pillow's 4 bytes a pixel, so a budget of pixels is a budget of memory. It is of the
node, not of a request: a thousand clients with a 16-megapixel picture each wait for each other.
"""

import asyncio
import contextlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from edge.node.tensors import ProtocolError
from edgedistill.budget import Budget, give_blocks_back
from edgedistill.errors import RefusedImage
from edgedistill.images import MAX_PIXELS, center_view, decode, read_header

THREADS = max(1, min(4, os.cpu_count() or 1))


class Decoder:
    """Decodes on a few threads, within one budget of pixels."""

    def __init__(self, *, max_pixels: int = MAX_PIXELS) -> None:
        give_blocks_back()  # else freed pictures stay, beside those that are decoded
        self._budget = Budget(max_pixels)
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="decode")

    async def views(self, pictures: Sequence[bytes], size: int) -> NDArray[np.uint8]:
        """The centre view of each picture, (B, S, S, 3).

        Raises:
            ProtocolError: one is no JPEG or PNG, too large or broken; which one is said, and its kind is the reason.
        """
        loop = asyncio.get_running_loop()
        futures = [loop.run_in_executor(self._pool, self._view, picture, size) for picture in pictures]
        try:
            return np.stack([await _named(future, i, len(futures)) for i, future in enumerate(futures)])
        finally:
            for future in futures:  # of a request that was refused or cut: what has not begun need not
                if not future.cancel() and not future.cancelled():
                    future.exception()  # seen: asyncio would report it as forgotten

    def close(self) -> None:
        """End the threads."""
        with contextlib.suppress(RuntimeError):
            self._pool.shutdown(wait=False, cancel_futures=True)

    def _view(self, picture: bytes, size: int) -> NDArray[np.uint8]:
        header = read_header(picture)
        weight = self._budget.take(header.width * header.height)
        try:
            return center_view(decode(picture), size)
        finally:
            self._budget.give(weight)


async def _named(future: "asyncio.Future[NDArray[np.uint8]]", number: int, count: int) -> NDArray[np.uint8]:
    try:
        return await future
    except RefusedImage as error:
        which = f"picture {number + 1} of {count}: " if count > 1 else ""
        raise ProtocolError(f"picture_{error.reason.replace('-', '_')}", f"{which}{error}") from error
