"""The node on a machine that needs two seconds to compile a release."""

import time
from pathlib import Path

from edge.node.__main__ import main
from edge.node.engine import Engine

LOADING_S = 2.0
_load = Engine.load


def _slowly(folder: Path) -> Engine:
    time.sleep(LOADING_S)
    return _load(folder)


if __name__ == "__main__":
    Engine.load = staticmethod(_slowly)  # type: ignore[method-assign]
    main()
