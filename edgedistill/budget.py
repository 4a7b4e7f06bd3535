"""So much of something at once, for threads that would together hold too much memory."""

import contextlib
import ctypes
import threading

_M_MMAP_THRESHOLD = -3  # malloc.h


class Budget:
    """A limit that threads share, first come first served. What is larger than the whole goes alone."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._used = 0
        self._arrived, self._admitted = 0, 0
        self._changed = threading.Condition()

    def take(self, amount: int) -> int:
        """Wait until there is room; gives what was taken.

        In order of arrival: else a stream of small amounts would keep a large one waiting for ever.
        """
        with self._changed:
            ticket = self._arrived
            self._arrived += 1
            self._changed.wait_for(lambda: ticket == self._admitted and self._fits(amount))
            self._admitted += 1
            self._used += amount
            self._changed.notify_all()
        return amount

    def give(self, amount: int) -> None:
        """Put back what was taken."""
        with self._changed:
            self._used -= amount
            self._changed.notify_all()

    def _fits(self, amount: int) -> bool:
        return not self._used or self._used + amount <= self._limit


def give_blocks_back() -> None:
    """Let glibc map blocks of a megabyte and more, and unmap them when they are freed; for the whole process.

    By itself it learns from the first freed picture to keep such blocks, in an arena for each thread: four threads held
    110 MB beside the picture that was being decoded.
    """
    with contextlib.suppress(OSError, AttributeError):  # another C library decides for itself
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 1 << 20)
