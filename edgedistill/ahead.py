"""Work done ahead by a few threads: results in the items' order, and never more of them in memory than `depth`."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    work: Callable[[Item], Result], items: Iterable[Item], *, depth: int, threads: int | None = None
) -> Iterator[Result]:
    """`work(item)` of each item, in order.

    Args:
        work: called from several threads at once; decoding and resizing pictures release the interpreter's lock.
        items: drawn as results are taken, so that a slow consumer stops the drawing.
        depth: results that are finished or under way at once.
        threads: None: one a core of this process, four at most.

    Raises:
        Exception: what `work` raised, at the place of its item; what is under way is then dropped.
    """
    waiting: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(threads or min(4, _cores()), thread_name_prefix="ahead")
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
