"""The node with a swap that takes the old engine away before the new one is in its place."""

import time

from edge.node.__main__ import main
from edge.node.engine import Engine
from edge.node.serving import Serving

_swap = Serving.swap


def _with_a_gap(self: Serving, engine: Engine | None) -> None:
    _swap(self, None)
    time.sleep(0.1)
    _swap(self, engine)


if __name__ == "__main__":
    Serving.swap = _with_a_gap  # type: ignore[method-assign]
    main()
