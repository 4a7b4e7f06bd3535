"""The node without its child: a candidate is tried where the pictures of others are answered."""

from pathlib import Path

from edge.node.__main__ import main
from edge.node.candidate import Candidate
from edge.node.child import Child
from edge.node.engine import Engine
from tests.edge.drivers.candidate_crashes import _crash


def _try_release(self: Child, folder: Path, active: Path | None) -> None:
    Candidate().try_release(folder=str(folder), active=str(active) if active else None)


if __name__ == "__main__":
    Engine.load = staticmethod(_crash)  # type: ignore[method-assign]
    Child.try_release = _try_release  # type: ignore[method-assign]
    main()
