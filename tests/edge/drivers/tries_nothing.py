"""The node without its trial: whatever is signed is served."""

from pathlib import Path

from edge.node.__main__ import main
from edge.node.child import Child


def _try_release(self: Child, folder: Path, active: Path | None) -> None:
    """No trial."""


if __name__ == "__main__":
    Child.try_release = _try_release  # type: ignore[method-assign]
    main()
