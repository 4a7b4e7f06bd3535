"""The node on a machine where loading release 2 raises what nobody thought of."""

from pathlib import Path

from edge.node.__main__ import main
from edge.node.engine import Engine
from edgedistill.bundle import read_bundle

_load = Engine.load


def _raise(folder: Path) -> Engine:
    if read_bundle(folder).version == 2:
        raise SystemError("a fault in the compiler")
    return _load(folder)


if __name__ == "__main__":
    Engine.load = staticmethod(_raise)  # type: ignore[method-assign]
    main()
