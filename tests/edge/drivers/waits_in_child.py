"""The node whose updating child stands still where $STANDS says; pids of its children go to $CHILDREN."""

import os
from collections.abc import Callable
from pathlib import Path

from edge.node import child
from edge.node.__main__ import main

_init = child.Child.__init__


def _noted(self: child.Child, is_wanted: Callable[[], bool] = lambda: True, *, memory_bytes: int) -> None:
    _init(self, is_wanted, memory_bytes=memory_bytes)
    with Path(os.environ["CHILDREN"]).open("a") as handle:
        handle.write(f"{self._process.pid}\n")


if __name__ == "__main__":
    child.MODULE = "tests.edge.drivers.candidate_waits"
    child.Child.__init__ = _noted  # type: ignore[method-assign]
    main()
