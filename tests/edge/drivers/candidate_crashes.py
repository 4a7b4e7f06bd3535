"""The updating child on a machine where release 2 ends the compiler by a real segmentation fault."""

import ctypes
from pathlib import Path

from edge.node.candidate import main
from edge.node.engine import Engine
from edgedistill.bundle import read_bundle

_load = Engine.load


def _crash(folder: Path) -> Engine:
    if read_bundle(folder).version == 2:
        ctypes.string_at(0)
    return _load(folder)


if __name__ == "__main__":
    Engine.load = staticmethod(_crash)  # type: ignore[method-assign]
    main()
