"""The node with a swap that leaks: memory, a descriptor and a thread each time."""

import os
import threading

from edge.node.__main__ import main
from edge.node.engine import Engine
from edge.node.serving import Serving

_swap, _held = Serving.swap, list[object]()


def _leak(self: Serving, engine: Engine | None) -> None:
    _swap(self, engine)
    _held.append(b"x" * (3 << 20))
    _held.append(os.open("/dev/null", os.O_RDONLY))
    threading.Thread(target=threading.Event().wait, daemon=True).start()


if __name__ == "__main__":
    Serving.swap = _leak  # type: ignore[method-assign]
    main()
